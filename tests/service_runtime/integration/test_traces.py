"""A process that is told where traces go sends them there."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Final

import httpx
import pytest

from local_platform.servers.ports import free_port
from tests.support.otlp import Collector, collecting
from tests.support.waiting import eventually

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
SPAN: Final = "b7ad6b7169203331"


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as collector:
        yield collector


async def test_a_service_with_an_endpoint_exports_the_spans_of_its_requests(collector: Collector) -> None:
    ops, http = free_port(), free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.service_runtime.probe_service", "well", str(ops), str(http)),
        env={**os.environ, "PROBE_OTLP_ENDPOINT": collector.endpoint},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(trust_env=False) as client:

            async def ready() -> bool:
                try:
                    return (await client.get(f"http://127.0.0.1:{ops}/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(ready, 20, "readiness")
            headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
            answer = await client.get(f"http://127.0.0.1:{http}/fast", headers=headers)
            assert answer.headers["trace-id"] == TRACE
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    (span,) = [span for span in collector.spans if span.trace_id == TRACE]
    assert span.parent_id == SPAN
    assert (span.service, span.name) == ("probe", "GET unmatched")
