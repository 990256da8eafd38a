"""The emulator as clients of RunPod see it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.local_platform.runpod import ENDPOINT, RunPodHarness, running_emulator


@pytest.fixture
async def runpod() -> AsyncIterator[RunPodHarness]:
    async with running_emulator() as runpod:
        yield runpod


async def test_a_job_goes_from_the_queue_to_a_worker_to_its_output(runpod: RunPodHarness) -> None:
    job_id = await runpod.run({"prompt": "x"})
    assert await runpod.status(job_id) == {"id": job_id, "status": "IN_QUEUE"}
    worker = runpod.worker()
    answer = await worker.get("job-take", "&job_in_progress=0")
    assert answer.json() == {"id": job_id, "input": {"prompt": "x"}}
    assert await worker.post(job_id, {"status": "IN_PROGRESS", "output": {"percent": 10}}) == 200
    body = await runpod.status(job_id)
    assert body["status"] == "IN_PROGRESS"
    assert body["output"] == {"percent": 10}
    assert await worker.post(job_id, {"output": {"answer": 42}}) == 200
    body = await runpod.status(job_id)
    assert body.keys() == {"id", "status", "delayTime", "executionTime", "output", "workerId"}
    assert (body["status"], body["output"], body["workerId"]) == ("COMPLETED", {"answer": 42}, "w1")
    assert isinstance(body["delayTime"], int)
    assert isinstance(body["executionTime"], int)


@pytest.mark.parametrize("result", [{"error": "broken"}, {"output": {"error": "broken"}}])
async def test_an_error_in_the_result_makes_the_job_failed(runpod: RunPodHarness, result: dict[str, object]) -> None:
    job_id = await runpod.run()
    worker = runpod.worker()
    await worker.take()
    await worker.post(job_id, result)
    body = await runpod.status(job_id)
    assert (body["status"], body["error"]) == ("FAILED", "broken")


@pytest.mark.parametrize("header", ["", "test-key", "Bearer wrong"])
async def test_a_request_without_the_bearer_token_is_refused(runpod: RunPodHarness, header: str) -> None:
    answer = await runpod.http.get(f"{runpod.url}/v2/{ENDPOINT}/health", headers={"authorization": header})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": "text"},
        {"input": {}, "webhook": "ftp://x"},
        {"input": {}, "policy": {"executionTimeout": 4999}},
        {"input": {}, "policy": {"executionTimeout": 604_800_001}},
        {"input": {}, "policy": {"ttl": 9999}},
        {"input": {}, "policy": {"ttl": 604_800_001}},
    ],
)
async def test_a_submission_outside_the_documented_bounds_is_refused(
    runpod: RunPodHarness, body: dict[str, object]
) -> None:
    assert (await runpod.call("POST", "run", **body)).status_code == 400
    assert await runpod.jobs() == []


async def test_run_refuses_a_body_of_more_than_ten_megabytes_and_runsync_does_not(runpod: RunPodHarness) -> None:
    await runpod.settings(runsync_wait_seconds=0.01)
    large = {"blob": "x" * (10 * 1024 * 1024)}
    assert (await runpod.call("POST", "run", input=large)).status_code == 400
    assert (await runpod.call("POST", "runsync", input=large)).status_code == 200


async def test_cancelling_a_queued_job_keeps_it_from_the_workers(runpod: RunPodHarness) -> None:
    job_id = await runpod.run()
    answer = await runpod.call("POST", f"cancel/{job_id}")
    assert answer.json() == {"id": job_id, "status": "CANCELLED"}
    assert await runpod.worker().take() is None
    assert (await runpod.status(job_id))["status"] == "CANCELLED"


async def test_a_cancelled_job_is_stopped_once_and_its_result_ignored(runpod: RunPodHarness) -> None:
    job_id = await runpod.run()
    worker, other = runpod.worker("w1"), runpod.worker("w2")
    await worker.take()
    waiting = asyncio.create_task(worker.stops())
    await runpod.call("POST", f"cancel/{job_id}")
    assert await waiting == [job_id]
    assert await worker.stops() == []
    assert await other.stops() == []
    await worker.post(job_id, {"output": "too late"})
    assert (await runpod.status(job_id))["status"] == "CANCELLED"
    assert (await runpod.requests())["ignored_results"] == 1


async def test_cancelling_a_job_that_has_ended_changes_nothing(runpod: RunPodHarness) -> None:
    job_id = await runpod.run()
    await runpod.worker().do()
    assert (await runpod.call("POST", f"cancel/{job_id}")).json()["status"] == "COMPLETED"


async def test_a_job_past_its_execution_timeout_is_timed_out_and_stopped(runpod: RunPodHarness) -> None:
    await runpod.settings(time_scale=50)
    job_id = await runpod.run(policy={"executionTimeout": 5000})
    worker = runpod.worker()
    await worker.take()
    await runpod.ended(job_id, "TIMED_OUT")
    assert await worker.stops() == [job_id]


async def test_the_execution_timeout_does_not_count_the_time_in_the_queue(runpod: RunPodHarness) -> None:
    await runpod.settings(time_scale=100)
    job_id = await runpod.run(policy={"executionTimeout": 5000, "ttl": 100_000})
    await asyncio.gather(*(runpod.worker("other").stops() for _ in range(3)))  # 0.2 s pass; the timeout would be 0.05 s
    assert (await runpod.status(job_id))["status"] == "IN_QUEUE"


@pytest.mark.parametrize("running", [False, True])
async def test_at_its_ttl_a_job_is_deleted_even_while_it_runs(runpod: RunPodHarness, running: bool) -> None:
    await runpod.settings(time_scale=50)
    job_id = await runpod.run(policy={"ttl": 10_000})
    worker = runpod.worker()
    if running:
        assert await worker.take() == job_id
    await runpod.ended(job_id, 404)
    assert await worker.stops() == ([job_id] if running else [])
    assert await worker.take() is None
    assert [job["gone_because"] for job in await runpod.jobs()] == ["ttl"]


async def test_results_are_kept_for_30_minutes_and_those_of_runsync_for_one(runpod: RunPodHarness) -> None:
    kept, short = await runpod.run(), (await runpod.call("POST", "run", input={})).json()["id"]
    assert kept != short
    await runpod.settings(time_scale=1000, runsync_wait_seconds=0.01)
    sync_id = (await runpod.call("POST", "runsync", input={})).json()["id"]
    assert sync_id.startswith("sync-")
    for _ in range(3):
        await runpod.worker().do()
    await runpod.ended(sync_id, 404)  # 60 s / 1000 = 0.06 s
    assert (await runpod.status(kept))["status"] == "COMPLETED"
    await runpod.ended(kept, 404)  # 1800 s / 1000 = 1.8 s


async def test_runsync_answers_with_the_result_of_a_job_that_ends_in_time(runpod: RunPodHarness) -> None:
    request = asyncio.create_task(runpod.call("POST", "runsync", input={"n": 1}))
    worker = runpod.worker()
    while (job_id := await worker.take()) is None:
        pass
    await worker.post(job_id, {"output": 7})
    body = (await request).json()
    assert (body["id"], body["status"], body["output"]) == (job_id, "COMPLETED", 7)


async def test_only_a_failed_job_can_be_retried_and_keeps_its_id(runpod: RunPodHarness) -> None:
    job_id = await runpod.run()
    worker = runpod.worker()
    await worker.take()
    assert (await runpod.call("POST", f"retry/{job_id}")).status_code == 400
    await worker.post(job_id, {"error": "broken"})
    assert (await runpod.call("POST", f"retry/{job_id}")).json() == {"id": job_id, "status": "IN_QUEUE"}
    assert await worker.do() == job_id
    body = await runpod.status(job_id)
    assert body["status"] == "COMPLETED"
    assert "error" not in body


async def test_purging_removes_queued_jobs_and_no_running_one(runpod: RunPodHarness) -> None:
    running = await runpod.run()
    worker = runpod.worker()
    await worker.take()
    waiting = [await runpod.run() for _ in range(3)]
    answer = await runpod.call("POST", "purge-queue")
    assert answer.json() == {"removed": 3, "status": "completed"}
    assert [(await runpod.status(job_id))["status"] for job_id in waiting] == [404, 404, 404]
    assert (await runpod.status(running))["status"] == "IN_PROGRESS"
    assert await worker.take(busy=True) is None


async def test_health_counts_jobs_and_workers(runpod: RunPodHarness) -> None:
    worker, failing, idle = runpod.worker("w1"), runpod.worker("w2"), runpod.worker("w3")
    await runpod.run()
    await worker.do()
    broken = await runpod.run()
    await failing.take()
    await failing.post(broken, {"error": "x"})
    await runpod.run()
    await worker.take()
    await idle.take()
    await runpod.run()
    health = (await runpod.call("GET", "health")).json()
    assert health["jobs"] == {"completed": 1, "failed": 1, "inProgress": 1, "inQueue": 1, "retried": 0}
    assert (health["workers"]["running"], health["workers"]["idle"]) == (1, 2)


async def test_a_stream_gives_each_part_once(runpod: RunPodHarness) -> None:
    job_id = await runpod.run()
    worker = runpod.worker()
    await worker.take()
    for part in ("a", "b"):
        await worker.post(job_id, {"output": part}, "job-stream")
    assert (await runpod.call("GET", f"stream/{job_id}")).json() == {
        "status": "IN_PROGRESS",
        "stream": [{"output": "a"}, {"output": "b"}],
    }
    assert (await runpod.call("GET", f"stream/{job_id}")).json()["stream"] == []


async def test_requests_beyond_the_rate_of_their_operation_get_429(runpod: RunPodHarness) -> None:
    statuses = [(await runpod.call("POST", "purge-queue")).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    await runpod.settings(limits={"run": {"per_10_seconds": 3, "concurrent": 200}})
    answers = await asyncio.gather(*(runpod.call("POST", "run", input={}) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 429, 429]
    assert len(await runpod.jobs()) == 3
    assert (await runpod.requests())["answers"]["run"] == {"200": 3, "429": 2}


async def test_more_requests_at_once_than_allowed_get_429(runpod: RunPodHarness) -> None:
    await runpod.settings(limits={"run": {"per_10_seconds": 1000, "concurrent": 2}})
    await runpod.rule("slow_response", operation="run", delay_seconds=0.3)
    answers = await asyncio.gather(*(runpod.call("POST", "run", input={}) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429]
    assert (await runpod.call("POST", "run", input={})).status_code == 200


async def test_an_endpoint_does_not_know_the_jobs_of_another(runpod: RunPodHarness) -> None:
    job_id = await runpod.run()
    elsewhere = RunPodHarness(runpod.url, runpod.http, endpoint="other")
    assert (await elsewhere.status(job_id))["status"] == 404
    assert await elsewhere.worker().take() is None


async def test_an_endpoint_that_a_client_named_is_shown_and_billed(runpod: RunPodHarness) -> None:
    job_id = await runpod.run()
    worker = runpod.worker()
    await worker.take()
    await worker.post(job_id, {"output": {"answer": 42}})
    shown = (await runpod.http.get(f"{runpod.url}/v1/endpoints/{ENDPOINT}")).json()
    assert (shown["id"], shown["workersMax"]) == (ENDPOINT, 3)
    assert (await runpod.http.get(f"{runpod.url}/v1/endpoints/never-named")).status_code == 404
    [line] = (await runpod.http.get(f"{runpod.url}/v1/billing/endpoints")).json()
    execution_ms = (await runpod.status(job_id))["executionTime"]
    assert (line["endpointId"], line["timeBilledMs"]) == (ENDPOINT, execution_ms)
    assert line["amount"] == pytest.approx(execution_ms / 1000 * 0.00019, abs=1e-6)
