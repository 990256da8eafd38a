"""The running service against the RunPod emulator, on good days and on bad ones."""

from contextlib import AsyncExitStack

import pytest
from sqlalchemy import text

from contracts.generation import (
    FAILURE_SENTENCES,
    AttemptFailed,
    GenerationCancelled,
    GenerationCompleted,
    GenerationFailed,
    GenerationStarted,
)
from tests.generation.harness import order
from tests.generation.service_harness import ServiceHarness
from tests.generation.worker import deliver, failing, fall_silent, in_turn, upload_and_fall_silent
from tests.support.waiting import eventually

LINE = ["GenerationQueued", "GenerationDispatched", "GenerationStarted", "OutputReady", "GenerationCompleted"]


async def test_an_order_runs_from_queue_to_completion(service: ServiceHarness) -> None:
    one = order()
    async with service.replica():
        await service.peers.fund(one)
        completed = await service.peers.until(one, GenerationCompleted)
    assert service.peers.kinds(one) == LINE
    assert (completed.capture_credits, completed.late) == (30, False)
    assert completed.worker_report == {"renderer": "scripted"}
    [job] = service.worker.taken
    assert job["input"]["schema"] == 1
    assert job["input"]["parameters"] == one.parameters
    assert job["input"]["workflow"]


async def test_polling_finds_what_no_webhook_reported(service: ServiceHarness) -> None:
    await service.emulator.misbehave("drop_webhook")
    one = order()
    async with service.replica():
        await service.peers.fund(one)
        await service.peers.until(one, GenerationCompleted)
    assert service.peers.kinds(one) == LINE


async def test_webhooks_that_come_ten_times_and_in_reverse_have_one_effect_each(service: ServiceHarness) -> None:
    await service.emulator.misbehave("double_webhook", copies=10)
    await service.emulator.misbehave("reorder_webhooks", delay_seconds=0.5)
    orders = [order() for _ in range(5)]
    async with service.replica():
        await service.peers.fund(*orders)
        for one in orders:
            await service.peers.until(one, GenerationCompleted)
    assert [service.peers.count(one, GenerationCompleted) for one in orders] == [1] * 5
    assert [await service.peers.attempts(one) for one in orders] == [["succeeded"]] * 5


async def test_a_job_whose_submission_was_reset_is_not_run_twice(service: ServiceHarness) -> None:
    await service.emulator.misbehave("accept_then_reset", operation="run", count=1)
    one = order()
    async with service.replica(ambiguous_wait_seconds=20):
        await service.peers.fund(one)
        await service.peers.until(one, GenerationCompleted)
    assert len(service.worker.taken) == 1
    assert await service.peers.attempts(one) == ["succeeded"]


async def test_progress_names_the_job_if_answer_and_webhook_are_lost(service: ServiceHarness) -> None:
    await service.emulator.misbehave("accept_then_reset", operation="run", count=1)
    await service.emulator.misbehave("drop_webhook")
    one = order()
    async with service.replica(ambiguous_wait_seconds=20):
        await service.peers.fund(one)
        await service.peers.until(one, GenerationCompleted)
    assert await service.peers.attempts(one) == ["succeeded"]


async def test_a_reset_submission_that_made_no_job_is_tried_again_after_the_wait(service: ServiceHarness) -> None:
    await service.emulator.misbehave("accept_then_reset", operation="run", count=1)
    await service.emulator.misbehave("lose_queued_job", count=1)
    one = order()
    async with service.replica():
        await service.peers.fund(one)
        await service.peers.until(one, GenerationCompleted)
    assert await service.peers.attempts(one) == ["lost", "succeeded"]


async def test_a_job_that_was_accepted_with_an_error_costs_at_most_another_run(service: ServiceHarness) -> None:
    await service.emulator.misbehave("accept_then_error", operation="run", count=1, http_status=500)
    one = order()
    async with service.replica():
        await service.peers.fund(one)
        await service.peers.until(one, GenerationCompleted)
    assert service.peers.count(one, GenerationCompleted) == 1
    assert len(service.worker.taken) <= 2


@pytest.mark.parametrize("status", [429, 503])
async def test_a_provider_that_refuses_pauses_the_queue_and_uses_up_no_try(
    service: ServiceHarness, status: int
) -> None:
    await service.emulator.misbehave("answer_error", operation="run", http_status=status, count=12)
    orders = [order() for _ in range(3)]
    async with service.replica():
        await service.peers.fund(*orders)
        for one in orders:
            await service.peers.until(one, GenerationCompleted, timeout=40)
    assert all(service.peers.count(one, AttemptFailed) == 0 for one in orders)
    for one in orders:
        assert set((await service.peers.attempts(one))[:-1]) <= {"refused"}


async def test_a_job_that_the_provider_lost_is_run_again(service: ServiceHarness) -> None:
    await service.emulator.misbehave("lose_queued_job", count=1)
    one = order()
    async with service.replica():
        await service.peers.fund(one)
        failed = await service.peers.until(one, AttemptFailed)
        assert (failed.code, failed.retry_at is not None) == ("provider_unavailable", True)
        await service.peers.until(one, GenerationCompleted)
    assert await service.peers.attempts(one) == ["lost", "succeeded"]


async def test_the_file_of_a_lost_worker_completes_the_order_without_another_run(service: ServiceHarness) -> None:
    service.worker.work = upload_and_fall_silent
    await service.emulator.misbehave("lose_running_job", delay_seconds=0.5)
    one = order()
    async with service.replica():
        await service.peers.fund(one)
        await service.peers.until(one, GenerationCompleted)
    assert len(service.worker.taken) == 1
    assert service.peers.count(one, AttemptFailed) == 0


async def test_a_job_that_succeeds_after_it_was_given_up_is_delivered_and_charged_once(service: ServiceHarness) -> None:
    await service.emulator.misbehave("late_success", delay_seconds=0.0, status="FAILED", count=1)
    one = order()
    async with service.replica():
        await service.peers.fund(one)
        completed = await service.peers.until(one, GenerationCompleted)
    assert not completed.late
    assert service.peers.count(one, GenerationCompleted) == 1


async def test_a_completed_job_without_an_output_is_looked_up_in_the_bucket(service: ServiceHarness) -> None:
    await service.emulator.misbehave("lose_output", count=1)
    one = order()
    async with service.replica():
        await service.peers.fund(one)
        await service.peers.until(one, GenerationCompleted)
    assert await service.peers.attempts(one) == ["succeeded"]


async def test_an_infrastructure_error_is_retried_and_a_users_error_is_not(service: ServiceHarness) -> None:
    service.worker.work = in_turn(failing("gpu_lost", "Xid 79"), deliver)
    unlucky, wrong = order(), order()
    async with service.replica():
        await service.peers.fund(unlucky)
        await service.peers.until(unlucky, GenerationCompleted)
        service.worker.work = failing("bad_image", "the picture is empty", user_fault=True)
        await service.peers.fund(wrong)
        failed = await service.peers.until(wrong, GenerationFailed)
    assert (failed.code, failed.detail) == ("invalid_input", FAILURE_SENTENCES["invalid_input"])
    assert await service.peers.attempts(unlucky) == ["failed", "succeeded"]
    assert await service.peers.attempts(wrong) == ["failed"]


async def test_three_failures_fail_the_order(service: ServiceHarness) -> None:
    service.worker.work = failing("gpu_lost", "Xid 79")
    one = order()
    async with service.replica():
        await service.peers.fund(one)
        failed = await service.peers.until(one, GenerationFailed)
    assert failed.code == "execution_failed"
    assert service.peers.count(one, AttemptFailed) == 2
    assert await service.peers.attempts(one) == ["failed"] * 3


async def test_a_cancel_stops_the_job_at_the_provider(service: ServiceHarness) -> None:
    service.worker.work = fall_silent
    one = order()
    async with service.replica():
        await service.peers.fund(one)
        await eventually(lambda: service.worker.taken)
        await service.worker.progress(service.worker.taken[0], 10)
        await service.peers.until(one, GenerationStarted)
        await service.peers.cancel(one)
        await service.peers.until(one, GenerationCancelled)

        async def priced() -> bool:
            [attempt] = await service.peers.costs(one)
            return attempt.execution_assumed is False

        await eventually(priced)
    [attempt] = await service.peers.costs(one)
    [job] = await service.emulator.jobs()
    assert job["status"] == "CANCELLED"
    assert (attempt.worker_id, attempt.execution_ms) == (job["workerId"], job["executionTime"])
    assert (attempt.gpu_assumed, attempt.cost_micro_usd > 0) == (True, True)
    assert service.peers.kinds(one)[-2:] == ["GenerationCancelling", "GenerationCancelled"]


async def test_a_cancel_that_the_provider_does_not_answer_ends_in_time(service: ServiceHarness) -> None:
    service.worker.work = fall_silent
    await service.emulator.misbehave("answer_error", operation="cancel", http_status=500)
    one = order()
    async with service.replica(cancel_timeout_seconds=2):
        await service.peers.fund(one)
        await eventually(lambda: service.worker.taken)
        await service.peers.cancel(one)
        await service.peers.until(one, GenerationCancelled)
        await service.emulator.behave()

        async def told() -> bool:
            return [job["status"] for job in await service.emulator.jobs()] == ["CANCELLED"]

        await eventually(told, 30, "the provider was told after all")


async def test_two_replicas_run_each_order_once(service: ServiceHarness) -> None:
    orders = [order() for _ in range(30)]
    async with AsyncExitStack() as replicas:
        for _ in range(2):
            await replicas.enter_async_context(service.replica())
        await service.peers.fund(*orders)
        for one in orders:
            await service.peers.until(one, GenerationCompleted, timeout=40)
    assert len(service.worker.taken) == 30
    async with service.database.engine("generation").connect() as connection:
        counters = text("SELECT sum(ready_count), sum(active_count) FROM generation.user_queues")
        assert tuple((await connection.execute(counters)).one()) == (0, 0)
