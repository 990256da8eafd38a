"""What is asked about endpoints, by whom, and what the metrics say of the answers."""

import asyncio
import json

import httpx
import pytest
from prometheus_client import REGISTRY

from generation.domain.policy import HealthPolicy
from generation.loops.endpoint_health import EndpointHealthChecks
from generation.repository.orders import lock_orders
from generation.runpod.client import RunPodClient
from tests.generation.harness import GenerationHarness, order
from tests.generation.provider import answering, responds, responds_after
from tests.support.waiting import eventually

EVERY_MINUTE = HealthPolicy(60.0)
IDS = {"image": "image-id", "video": "video-id"}


def metric(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def workers(endpoint: str, state: str = "idle") -> float | None:
    return metric("generation_provider_workers", endpoint=endpoint, state=state)


class RunPod:
    """Answers by path, and remembers what was asked."""

    def __init__(self) -> None:
        well = httpx.Response(200, json={"jobs": {"inQueue": 4}, "workers": {"idle": 2, "throttled": 1, "odd": 9}})
        self.answers = {f"/v2/{one}/health": well for one in IDS.values()}
        self.answers |= {f"/v1/endpoints/{one}": httpx.Response(200, json={"workersMax": 3}) for one in IDS.values()}
        self.asked: list[str] = []
        self.jobs: list[dict[str, object]] = []
        self.transport = httpx.MockTransport(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if request.url.path.endswith("/run"):
            self.jobs.append(json.loads(request.content))
        return self.answers[request.url.path]

    def checks(self, harness: GenerationHarness, policy: HealthPolicy = EVERY_MINUTE) -> EndpointHealthChecks:
        """One replica."""
        client = RunPodClient(
            self.transport, "https://api", "key", timeout_seconds=5.0, call_seconds=5.0, rest_base="https://rest"
        )
        return EndpointHealthChecks(harness.transactions, client, IDS, policy)


@pytest.fixture
def runpod(monkeypatch: pytest.MonkeyPatch) -> RunPod:
    async def at_once(_: float) -> None: ...

    monkeypatch.setattr("generation.runpod.client.asyncio.sleep", at_once)
    return RunPod()


async def due(harness: GenerationHarness) -> None:
    await harness.execute("UPDATE generation.endpoint_health SET due_at = clock_timestamp()")


async def test_one_replica_asks_and_every_replica_shows(harness: GenerationHarness, runpod: RunPod) -> None:
    first, second = runpod.checks(harness), runpod.checks(harness)
    await first.measure()
    asked = len(runpod.asked)
    assert asked == 2 * len(IDS)
    await second.measure()
    await first.measure()
    assert len(runpod.asked) == asked
    assert (workers("video"), workers("video", "throttled"), workers("video", "running")) == (2, 1, 0)
    assert workers("video", "odd") is None
    assert metric("generation_provider_jobs", endpoint="video", state="queued") == 4
    assert metric("generation_provider_max_workers", endpoint="video") == 3


async def test_workers_that_cannot_be_counted_are_not_reported(harness: GenerationHarness, runpod: RunPod) -> None:
    checks = runpod.checks(harness)
    await checks.measure()
    assert (workers("image"), workers("video")) == (2, 2)
    runpod.answers["/v2/image-id/health"] = httpx.Response(503)
    runpod.answers["/v1/endpoints/video-id"] = httpx.Response(403)
    await due(harness)
    await checks.measure()
    assert (workers("image"), workers("video")) == (None, 2)
    for endpoint in IDS:
        assert metric("generation_provider_max_workers", endpoint=endpoint) is None


async def test_what_was_counted_long_ago_is_not_shown(harness: GenerationHarness, runpod: RunPod) -> None:
    checks = runpod.checks(harness)
    await checks.measure()
    await harness.execute("UPDATE generation.endpoint_health SET measured_at = measured_at - interval '1 hour'")
    await checks.measure()
    assert workers("video") is None


async def test_workers_are_counted_while_another_endpoint_does_not_answer(harness: GenerationHarness) -> None:
    late = asyncio.Event()
    counted = b'{"jobs": {}, "workers": {"idle": 3}}'

    async def known() -> bool:
        rows = await harness.query("SELECT endpoint FROM generation.endpoint_health WHERE measured_at IS NOT NULL")
        return [row.endpoint for row in rows] == ["image"]

    async with answering() as (provider, client):
        provider.answers = {
            "/v2/video-id/health": responds_after(late, counted),
            "/v2/image-id/health": responds(counted),
            "/v1/endpoints/image-id": responds(b"{}"),
            "/v1/endpoints/video-id": responds(b"{}"),
        }
        checks = EndpointHealthChecks(harness.transactions, client, IDS, HealthPolicy(60.0))
        asking = asyncio.create_task(checks.measure())
        try:
            await eventually(known)
        finally:
            late.set()
            await asking
    assert (workers("image"), workers("video")) == (3, 3)


async def test_an_idle_endpoint_is_kept_alive_once_by_one_replica(harness: GenerationHarness, runpod: RunPod) -> None:
    runpod.answers |= {f"/v2/{one}/run": httpx.Response(200, json={"id": "job"}) for one in IDS.values()}
    policy = HealthPolicy(60.0, keep_alive_seconds=3600.0)
    replicas = [runpod.checks(harness, policy) for _ in range(3)]
    await asyncio.gather(*(replica.measure() for replica in replicas))
    assert runpod.jobs == []
    await harness.execute(
        "UPDATE generation.endpoints SET tokens_at = tokens_at - interval '2 hours' WHERE endpoint = 'video'"
    )
    for _ in range(2):
        await due(harness)
        await asyncio.gather(*(replica.measure() for replica in replicas))
    assert [job["input"] for job in runpod.jobs] == [{"keep_alive": True}]
    assert runpod.asked.count("/v2/video-id/run") == 1


async def test_an_endpoint_is_not_kept_alive_unless_so_set(harness: GenerationHarness, runpod: RunPod) -> None:
    await harness.execute("UPDATE generation.endpoints SET tokens_at = tokens_at - interval '30 days'")
    await runpod.checks(harness).measure()
    assert runpod.jobs == []


async def test_a_keep_alive_that_is_refused_is_tried_again_after_an_hour(
    harness: GenerationHarness, runpod: RunPod
) -> None:
    runpod.answers |= {f"/v2/{one}/run": httpx.Response(500) for one in IDS.values()}
    await harness.execute("UPDATE generation.endpoints SET tokens_at = tokens_at - interval '3 days'")
    checks = runpod.checks(harness, HealthPolicy(60.0, keep_alive_seconds=172_800.0))
    for passed, jobs in (("0", 2), ("59 minutes", 2), ("2 minutes", 4)):
        await harness.execute(
            f"UPDATE generation.endpoint_health SET due_at = clock_timestamp(),"
            f" keep_alive_at = keep_alive_at - interval '{passed}'"
        )
        await checks.measure()
        assert len(runpod.jobs) == jobs


async def test_an_order_counts_as_a_sign_of_life(harness: GenerationHarness, runpod: RunPod) -> None:
    await harness.execute("UPDATE generation.endpoints SET tokens_at = tokens_at - interval '30 days'")
    one = order()
    await harness.enqueue(one)
    await harness.claim()
    async with harness.engine.begin() as connection:
        assert (await lock_orders(connection, [one.generation_id])).orders
    runpod.answers |= {f"/v2/{one}/run": httpx.Response(200, json={"id": "job"}) for one in IDS.values()}
    await runpod.checks(harness, HealthPolicy(60.0, keep_alive_seconds=3600.0)).measure()
    assert [path for path in runpod.asked if path.endswith("/run")] == ["/v2/image-id/run"]
