"""What the metrics say of the provider."""

import asyncio
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from generation.loops.gauges import Gauges
from generation.runpod.client import RunPodClient
from tests.generation.provider import answering, responds, responds_after
from tests.support.waiting import eventually


def idle(endpoint: str) -> float | None:
    return REGISTRY.get_sample_value("generation_provider_workers", {"endpoint": endpoint, "state": "idle"})


async def test_workers_that_cannot_be_counted_are_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_: float) -> None: ...

    monkeypatch.setattr("asyncio.sleep", at_once)
    well = httpx.Response(200, json={"jobs": {}, "workers": {"idle": 2}})
    answers = {"/v2/ill-id/health": well, "/v2/well-id/health": well}
    http = httpx.AsyncClient(transport=httpx.MockTransport(lambda request: answers[request.url.path]))
    nothing: Any = None
    gauges = Gauges(nothing, RunPodClient(http, "https://x", "key", 5.0), {"ill": "ill-id", "well": "well-id"})
    await gauges.measure_provider()
    assert (idle("ill"), idle("well")) == (2, 2)
    answers["/v2/ill-id/health"] = httpx.Response(503)
    await gauges.measure_provider()
    assert (idle("ill"), idle("well")) == (None, 2)


async def test_workers_are_counted_while_another_endpoint_does_not_answer() -> None:
    late = asyncio.Event()
    counted = b'{"jobs": {}, "workers": {"idle": 3}}'
    nothing: Any = None
    async with answering() as (provider, client):
        provider.answers = {
            "/v2/slow-id/health": responds_after(late, counted),
            "/v2/next-id/health": responds(counted),
        }
        asking = asyncio.create_task(Gauges(nothing, client, {"slow": "slow-id", "next": "next-id"}).measure_provider())
        try:
            await eventually(lambda: idle("next") == 3)
        finally:
            late.set()
            await asking
    assert idle("slow") == 3
