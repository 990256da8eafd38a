"""Faults on request: every rule has its effect on the requests and jobs that it names, as often as it says."""

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.local_platform.runpod import RunPodHarness, running_emulator
from tests.support.waiting import eventually


@pytest.fixture
async def runpod() -> AsyncIterator[RunPodHarness]:
    async with running_emulator() as runpod:
        yield runpod


async def test_a_reset_after_acceptance_leaves_the_job_in_the_queue(
    runpod: RunPodHarness,
) -> None:
    await runpod.rule("accept_then_reset", operation="run", count=1)
    with pytest.raises(httpx.ReadError):
        await runpod.run()
    [job] = await runpod.jobs()
    assert await runpod.worker().do() == job["id"]
    assert (await runpod.requests())["answers"]["run"] == {"reset": 1}


@pytest.mark.parametrize("http_status", [429, 500, 503])
async def test_an_error_instead_of_acceptance_leaves_no_job(runpod: RunPodHarness, http_status: int) -> None:
    await runpod.rule("answer_error", operation="run", http_status=http_status, count=2)
    for _ in range(2):
        assert (await runpod.call("POST", "run", input={})).status_code == http_status
    await runpod.run()
    assert len(await runpod.jobs()) == 1


async def test_an_error_after_acceptance_leaves_a_job(runpod: RunPodHarness) -> None:
    await runpod.rule("accept_then_error", operation="run", http_status=502)
    assert (await runpod.call("POST", "run", input={})).status_code == 502
    assert len(await runpod.jobs()) == 1


async def test_status_can_deny_a_job(runpod: RunPodHarness) -> None:
    job_id, other = await runpod.run(), await runpod.run()
    await runpod.rule("answer_error", operation="status", http_status=404, job_id=job_id, count=1)
    assert [(await runpod.status(one))["status"] for one in (job_id, other, job_id)] == [404, "IN_QUEUE", "IN_QUEUE"]


async def test_a_slow_answer_comes_late(runpod: RunPodHarness) -> None:
    await runpod.rule("slow_response", operation="health", delay_seconds=0.3)
    began = time.monotonic()
    assert (await runpod.call("GET", "health")).status_code == 200
    assert time.monotonic() - began >= 0.3


async def test_a_job_lost_in_the_queue_is_never_run_and_not_known(runpod: RunPodHarness) -> None:
    await runpod.rule("lose_queued_job", count=1)
    job_id = await runpod.run()
    assert (await runpod.status(job_id))["status"] == 404
    assert await runpod.worker().take() is None
    assert [job["gone_because"] for job in await runpod.jobs()] == ["lost_in_queue"]


async def test_a_stuck_job_is_never_given_to_a_worker(runpod: RunPodHarness) -> None:
    await runpod.rule("stick_in_queue", count=1)
    job_id, other = await runpod.run(), await runpod.run()
    assert await runpod.worker().take() == other
    assert (await runpod.status(job_id))["status"] == "IN_QUEUE"


async def test_the_next_jobs_fail_with_the_given_error(runpod: RunPodHarness) -> None:
    await runpod.rule("fail_job", error='{"code": "x"}', count=2)
    ids = [await runpod.run() for _ in range(3)]
    assert await runpod.worker().take() == ids[2]
    for job_id in ids[:2]:
        body = await runpod.status(job_id)
        assert (body["status"], body["error"]) == ("FAILED", '{"code": "x"}')


async def test_a_job_lost_while_running_is_unknown_and_not_stopped(runpod: RunPodHarness) -> None:
    await runpod.rule("lose_running_job", delay_seconds=0.1)
    job_id = await runpod.run()
    worker = runpod.worker()
    await worker.take()
    await runpod.ended(job_id, 404)
    assert await worker.stops() == []
    assert await worker.post(job_id, {"output": 1}) == 200
    assert (await runpod.status(job_id))["status"] == 404


@pytest.mark.parametrize("status", ["TIMED_OUT", "FAILED"])
async def test_a_late_success_is_reported_as_failure_while_the_worker_goes_on(
    runpod: RunPodHarness, status: str
) -> None:
    await runpod.rule("late_success", status=status)
    job_id = await runpod.run()
    worker = runpod.worker()
    await worker.take()
    await runpod.ended(job_id, status)
    assert await worker.stops() == []
    assert await worker.post(job_id, {"output": 1}) == 200
    assert "output" not in await runpod.status(job_id)


async def test_a_lost_output_leaves_a_completed_job_without_one(runpod: RunPodHarness) -> None:
    await runpod.rule("lose_output")
    job_id = await runpod.run()
    await runpod.worker().do()
    body = await runpod.status(job_id)
    assert body["status"] == "COMPLETED"
    assert "output" not in body


async def test_a_lost_result_leaves_the_job_running_until_it_times_out(runpod: RunPodHarness) -> None:
    await runpod.settings(time_scale=10)
    await runpod.rule("lose_result")
    job_id = await runpod.run(policy={"executionTimeout": 5000})
    worker = runpod.worker()
    await worker.do()
    assert await worker.take() is None
    assert (await runpod.status(job_id))["status"] == "IN_PROGRESS"
    await runpod.ended(job_id, "TIMED_OUT")


async def test_a_rule_strikes_only_the_jobs_whose_input_it_names(runpod: RunPodHarness) -> None:
    await runpod.rule("lose_queued_job", input={"generation_id": "a", "attempt_number": 1})
    inputs: list[dict[str, Any]] = [
        {"generation_id": "a", "attempt_number": 1},
        {"generation_id": "a", "attempt_number": 2},
        {"generation_id": "b", "attempt_number": 1},
    ]
    statuses = [(await runpod.status(await runpod.run(one)))["status"] for one in inputs]
    assert statuses == [404, "IN_QUEUE", "IN_QUEUE"]


async def test_a_rule_about_submissions_can_name_an_input(runpod: RunPodHarness) -> None:
    await runpod.rule("answer_error", operation="run", http_status=503, input={"n": 2})
    assert [(await runpod.call("POST", "run", input={"n": n})).status_code for n in (1, 2, 3)] == [200, 503, 200]


async def test_a_rule_strikes_only_the_endpoint_it_names(runpod: RunPodHarness) -> None:
    await runpod.rule("answer_error", operation="health", endpoint="other")
    other = RunPodHarness(runpod.url, runpod.http, endpoint="other")
    assert (await runpod.call("GET", "health")).status_code == 200
    assert (await other.call("GET", "health")).status_code == 500


async def test_one_seed_gives_one_series_of_strikes(runpod: RunPodHarness) -> None:
    async def series(seed: int) -> list[int]:
        rule = await runpod.rule("answer_error", operation="health", probability=0.5, seed=seed)
        statuses = [(await runpod.call("GET", "health")).status_code for _ in range(30)]
        await runpod.http.delete(f"{runpod.url}/admin/rules/{rule['id']}")
        return statuses

    first = await series(1)
    assert set(first) == {200, 500}
    assert await series(1) == first
    assert await series(2) != first


async def test_rules_are_listed_with_their_strikes_and_cleared(runpod: RunPodHarness) -> None:
    await runpod.rule("answer_error", operation="health", count=5)
    await runpod.rule("drop_webhook")
    await runpod.call("GET", "health")
    listed = (await runpod.http.get(f"{runpod.url}/admin/rules")).json()
    assert [(rule["effect"], rule["strikes"]) for rule in listed] == [("answer_error", 1), ("drop_webhook", 0)]
    assert (await runpod.http.delete(f"{runpod.url}/admin/rules")).status_code == 204
    assert (await runpod.http.get(f"{runpod.url}/admin/rules")).json() == []
    assert (await runpod.call("GET", "health")).status_code == 200


@pytest.mark.parametrize("rule", [{"effect": "explode"}, {"effect": "drop_webhook", "typo": 1}, {}])
async def test_an_invalid_rule_is_refused(runpod: RunPodHarness, rule: dict[str, Any]) -> None:
    answer = await runpod.http.post(f"{runpod.url}/admin/rules", json=rule)
    assert answer.status_code == 422


async def test_invalid_settings_are_refused(runpod: RunPodHarness) -> None:
    invalid: tuple[object, ...] = ({"worker_lease_seconds": 0.1}, {"nonsense": 1}, [])
    for changes in invalid:
        answer = await runpod.http.patch(f"{runpod.url}/admin/settings", json=changes)
        assert answer.status_code == 422


async def test_a_worker_whose_poll_was_reset_gets_the_job_again(runpod: RunPodHarness) -> None:
    await runpod.rule("accept_then_reset", operation="job-take", count=1)
    job_id = await runpod.run()
    worker = runpod.worker()
    with pytest.raises(httpx.ReadError):
        await worker.take()

    async def given_again() -> bool:
        return await worker.take() == job_id

    assert await eventually(given_again, what="the job")
