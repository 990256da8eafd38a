"""The emulator for workers: how they share jobs, are lost, and come back."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.local_platform.runpod import API_KEY, RunPodHarness, running_emulator
from tests.support.waiting import eventually


@pytest.fixture
async def runpod() -> AsyncIterator[RunPodHarness]:
    async with running_emulator() as runpod:
        yield runpod


async def shorten_leases(runpod: RunPodHarness, seconds: float = 0.6) -> None:
    """The leases of the next signs of life are this long: no test's worker is lost by a machine that stalls."""
    await runpod.settings(worker_lease_seconds=seconds)


async def test_jobs_are_given_in_order_and_each_to_one_worker(runpod: RunPodHarness) -> None:
    ids = [await runpod.run({"n": number}) for number in range(6)]
    workers = [runpod.worker("w1"), runpod.worker("w2")]
    taken = [await workers[number % 2].take(busy=number > 1) for number in range(6)]
    assert taken == ids


async def test_a_waiting_worker_gets_a_job_at_once(runpod: RunPodHarness) -> None:
    await runpod.settings(worker_poll_seconds=20)
    poll = asyncio.create_task(runpod.worker().take())
    await eventually(lambda: workers(runpod), what="the worker's poll")
    async with asyncio.timeout(5):
        assert await runpod.run() == await poll


async def workers(runpod: RunPodHarness) -> int:
    counts = (await runpod.call("GET", "health")).json()["workers"]
    return int(counts["idle"] + counts["running"])


async def test_a_worker_that_disconnected_gets_no_job(runpod: RunPodHarness) -> None:
    await runpod.settings(worker_poll_seconds=20)
    poll = asyncio.create_task(runpod.worker("w1").take())
    await eventually(lambda: workers(runpod), what="the worker's poll")
    poll.cancel()
    await asyncio.gather(poll, return_exceptions=True)
    await runpod.http.aclose()
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {API_KEY}"}) as http:
        again = RunPodHarness(runpod.url, http)
        job_id = await again.run()
        assert await again.worker("w2").take() == job_id


async def test_a_batch_is_not_larger_than_requested(runpod: RunPodHarness) -> None:
    ids = [await runpod.run() for _ in range(5)]
    worker = runpod.worker()
    answer = await worker.get("job-take-batch", "&batch_size=3&job_in_progress=0")
    assert [job["id"] for job in answer.json()] == ids[:3]
    answer = await worker.get("job-take-batch", "&batch_size=3&job_in_progress=1")
    assert [job["id"] for job in answer.json()] == ids[3:]
    assert (await worker.get("job-take-batch", "&batch_size=3&job_in_progress=1")).status_code == 204


async def test_the_job_of_a_lost_worker_is_requeued_once_and_then_fails(runpod: RunPodHarness) -> None:
    await shorten_leases(runpod)
    job_id = await runpod.run()
    later = await runpod.run()
    first, second = runpod.worker("w1"), runpod.worker("w2")
    assert await first.take() == job_id
    await runpod.ended(job_id, "IN_QUEUE")
    assert await second.take() == job_id
    body = await runpod.ended(job_id, "FAILED")
    assert body["error"] == "job timed out after 1 retries"
    assert (await runpod.status(later))["status"] == "IN_QUEUE"
    assert (await runpod.call("GET", "health")).json()["jobs"]["retried"] == 1


async def test_a_worker_that_pings_keeps_its_job(runpod: RunPodHarness) -> None:
    job_id, of_a_silent_worker = await runpod.run(), await runpod.run()
    worker = runpod.worker()
    await shorten_leases(runpod, 3)
    assert await worker.take() == job_id
    await runpod.settings(worker_lease_seconds=60)
    assert (await worker.get("ping", f"&job_id={job_id}")).status_code == 200
    await shorten_leases(runpod, 3)
    assert await runpod.worker("silent").take() == of_a_silent_worker
    await runpod.ended(of_a_silent_worker, "IN_QUEUE")
    assert (await runpod.status(job_id))["status"] == "IN_PROGRESS"


async def test_a_worker_that_reports_no_job_has_lost_its_job(runpod: RunPodHarness) -> None:
    job_id = await runpod.run()
    worker = runpod.worker()
    assert await worker.take() == job_id
    assert await worker.take(busy=True) is None
    assert await worker.take() == job_id
    assert [job["retries"] for job in await runpod.jobs(id=job_id)] == [1]


async def test_a_result_from_a_worker_that_lost_the_job_is_ignored(runpod: RunPodHarness) -> None:
    job_id = await runpod.run()
    lost, second = runpod.worker("w1"), runpod.worker("w2")
    await shorten_leases(runpod)
    await lost.take()
    await runpod.ended(job_id, "IN_QUEUE")
    await runpod.settings(worker_lease_seconds=60)
    await second.take()
    assert await lost.post(job_id, {"output": "stale"}) == 200
    assert (await runpod.status(job_id))["status"] == "IN_PROGRESS"
    await second.post(job_id, {"output": "fresh"})
    assert (await runpod.status(job_id))["output"] == "fresh"


async def test_a_result_of_more_than_twenty_megabytes_is_refused(runpod: RunPodHarness) -> None:
    job_id = await runpod.run()
    worker = runpod.worker()
    await worker.take()
    assert await worker.post(job_id, {"output": "x" * (20 * 1024 * 1024)}) == 400
