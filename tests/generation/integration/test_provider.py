"""The running service against the RunPod emulator, on good days and on bad ones."""

from contextlib import AsyncExitStack

import pytest
from sqlalchemy import text

from contracts.generation import (
    AttemptFailed,
    GenerationCancelled,
    GenerationCompleted,
    GenerationFailed,
    GenerationStarted,
)
from tests.generation.bench import order
from tests.generation.stage import Stage
from tests.generation.worker import deliver, failing, fall_silent, in_turn, upload_and_fall_silent
from tests.support.waiting import eventually

LINE = ["GenerationQueued", "GenerationDispatched", "GenerationStarted", "OutputReady", "GenerationCompleted"]


async def test_an_order_runs_from_queue_to_completion(stage: Stage) -> None:
    one = order()
    async with stage.replica():
        await stage.peers.fund(one)
        completed = await stage.peers.until(one, GenerationCompleted)
    assert stage.peers.kinds(one) == LINE
    assert (completed.capture_credits, completed.late) == (30, False)
    assert completed.worker_report == {"renderer": "scripted"}
    [job] = stage.worker.taken
    assert job["input"]["schema"] == 1
    assert job["input"]["parameters"] == one.parameters
    assert job["input"]["workflow"]


async def test_the_sweep_finds_what_no_webhook_told(stage: Stage) -> None:
    await stage.emulator.misbehave("drop_webhook")
    one = order()
    async with stage.replica():
        await stage.peers.fund(one)
        await stage.peers.until(one, GenerationCompleted)
    assert stage.peers.kinds(one) == LINE


async def test_webhooks_that_come_ten_times_and_in_reverse_have_one_effect_each(stage: Stage) -> None:
    await stage.emulator.misbehave("double_webhook", copies=10)
    await stage.emulator.misbehave("reorder_webhooks", delay_seconds=0.5)
    orders = [order() for _ in range(5)]
    async with stage.replica():
        await stage.peers.fund(*orders)
        for one in orders:
            await stage.peers.until(one, GenerationCompleted)
    assert [stage.peers.count(one, GenerationCompleted) for one in orders] == [1] * 5
    assert [await stage.peers.attempts(one) for one in orders] == [["succeeded"]] * 5


async def test_a_job_whose_submission_was_reset_is_not_run_twice(stage: Stage) -> None:
    await stage.emulator.misbehave("accept_then_reset", operation="run", count=1)
    one = order()
    async with stage.replica(ambiguous_wait_seconds=20):
        await stage.peers.fund(one)
        await stage.peers.until(one, GenerationCompleted)
    assert len(stage.worker.taken) == 1
    assert await stage.peers.attempts(one) == ["succeeded"]


async def test_progress_tells_the_job_that_neither_answer_nor_webhook_told(stage: Stage) -> None:
    await stage.emulator.misbehave("accept_then_reset", operation="run", count=1)
    await stage.emulator.misbehave("drop_webhook")
    one = order()
    async with stage.replica(ambiguous_wait_seconds=20):
        await stage.peers.fund(one)
        await stage.peers.until(one, GenerationCompleted)
    assert await stage.peers.attempts(one) == ["succeeded"]


async def test_a_reset_submission_that_made_no_job_is_tried_again_after_the_wait(stage: Stage) -> None:
    await stage.emulator.misbehave("accept_then_reset", operation="run", count=1)
    await stage.emulator.misbehave("lose_queued_job", count=1)
    one = order()
    async with stage.replica():
        await stage.peers.fund(one)
        await stage.peers.until(one, GenerationCompleted)
    assert await stage.peers.attempts(one) == ["lost", "succeeded"]


async def test_a_job_that_was_accepted_with_an_error_costs_at_most_another_run(stage: Stage) -> None:
    await stage.emulator.misbehave("accept_then_error", operation="run", count=1, http_status=500)
    one = order()
    async with stage.replica():
        await stage.peers.fund(one)
        await stage.peers.until(one, GenerationCompleted)
    assert stage.peers.count(one, GenerationCompleted) == 1
    assert len(stage.worker.taken) <= 2


@pytest.mark.parametrize("status", [429, 503])
async def test_a_provider_that_refuses_holds_the_queue_and_uses_up_no_try(stage: Stage, status: int) -> None:
    await stage.emulator.misbehave("answer_error", operation="run", http_status=status, count=12)
    orders = [order() for _ in range(3)]
    async with stage.replica():
        await stage.peers.fund(*orders)
        for one in orders:
            await stage.peers.until(one, GenerationCompleted, timeout=40)
    assert all(stage.peers.count(one, AttemptFailed) == 0 for one in orders)
    for one in orders:
        assert set((await stage.peers.attempts(one))[:-1]) <= {"refused"}


async def test_a_job_that_the_provider_lost_is_run_again(stage: Stage) -> None:
    await stage.emulator.misbehave("lose_queued_job", count=1)
    one = order()
    async with stage.replica():
        await stage.peers.fund(one)
        failed = await stage.peers.until(one, AttemptFailed)
        assert (failed.code, failed.retry_at is not None) == ("provider_unavailable", True)
        await stage.peers.until(one, GenerationCompleted)
    assert await stage.peers.attempts(one) == ["lost", "succeeded"]


async def test_a_file_that_a_lost_worker_left_completes_the_order_without_another_run(stage: Stage) -> None:
    stage.worker.work = upload_and_fall_silent
    await stage.emulator.misbehave("lose_running_job", delay_seconds=0.5)
    one = order()
    async with stage.replica():
        await stage.peers.fund(one)
        await stage.peers.until(one, GenerationCompleted)
    assert len(stage.worker.taken) == 1
    assert stage.peers.count(one, AttemptFailed) == 0


async def test_a_job_that_was_given_up_while_it_succeeded_is_delivered_and_charged_once(stage: Stage) -> None:
    await stage.emulator.misbehave("late_success", delay_seconds=0.0, status="FAILED", count=1)
    one = order()
    async with stage.replica():
        await stage.peers.fund(one)
        completed = await stage.peers.until(one, GenerationCompleted)
    assert not completed.late
    assert stage.peers.count(one, GenerationCompleted) == 1


async def test_a_completed_job_without_an_output_is_looked_for_in_the_bucket(stage: Stage) -> None:
    await stage.emulator.misbehave("lose_output", count=1)
    one = order()
    async with stage.replica():
        await stage.peers.fund(one)
        await stage.peers.until(one, GenerationCompleted)
    assert await stage.peers.attempts(one) == ["succeeded"]


async def test_an_infrastructure_error_is_retried_and_a_users_error_is_not(stage: Stage) -> None:
    stage.worker.work = in_turn(failing("gpu_lost", "Xid 79"), deliver)
    unlucky, wrong = order(), order()
    async with stage.replica():
        await stage.peers.fund(unlucky)
        await stage.peers.until(unlucky, GenerationCompleted)
        stage.worker.work = failing("bad_image", "the picture is empty", user_fault=True)
        await stage.peers.fund(wrong)
        failed = await stage.peers.until(wrong, GenerationFailed)
    assert (failed.code, failed.detail) == ("invalid_input", "the picture is empty")
    assert await stage.peers.attempts(unlucky) == ["failed", "succeeded"]
    assert await stage.peers.attempts(wrong) == ["failed"]


async def test_three_failures_fail_the_order(stage: Stage) -> None:
    stage.worker.work = failing("gpu_lost", "Xid 79")
    one = order()
    async with stage.replica():
        await stage.peers.fund(one)
        failed = await stage.peers.until(one, GenerationFailed)
    assert failed.code == "execution_failed"
    assert stage.peers.count(one, AttemptFailed) == 2
    assert await stage.peers.attempts(one) == ["failed"] * 3


async def test_a_cancel_stops_the_job_at_the_provider(stage: Stage) -> None:
    stage.worker.work = fall_silent
    one = order()
    async with stage.replica():
        await stage.peers.fund(one)
        await eventually(lambda: stage.worker.taken)
        await stage.worker.progress(stage.worker.taken[0], 10)
        await stage.peers.until(one, GenerationStarted)
        await stage.peers.cancel(one)
        await stage.peers.until(one, GenerationCancelled)
    assert [job["status"] for job in await stage.emulator.jobs()] == ["CANCELLED"]
    assert stage.peers.kinds(one)[-2:] == ["GenerationCancelling", "GenerationCancelled"]


async def test_a_cancel_that_the_provider_does_not_answer_is_done_within_its_bound(stage: Stage) -> None:
    stage.worker.work = fall_silent
    await stage.emulator.misbehave("answer_error", operation="cancel", http_status=500)
    one = order()
    async with stage.replica(cancel_timeout_seconds=2):
        await stage.peers.fund(one)
        await eventually(lambda: stage.worker.taken)
        await stage.peers.cancel(one)
        await stage.peers.until(one, GenerationCancelled)
        await stage.emulator.behave()

        async def told() -> bool:
            return [job["status"] for job in await stage.emulator.jobs()] == ["CANCELLED"]

        await eventually(told, 30, "the provider was told after all")


async def test_two_replicas_run_each_order_once(stage: Stage) -> None:
    orders = [order() for _ in range(30)]
    async with AsyncExitStack() as replicas:
        for _ in range(2):
            await replicas.enter_async_context(stage.replica())
        await stage.peers.fund(*orders)
        for one in orders:
            await stage.peers.until(one, GenerationCompleted, timeout=40)
    assert len(stage.worker.taken) == 30
    async with stage.database.engine("generation").connect() as connection:
        counters = text("SELECT sum(ready_count), sum(active_count) FROM generation.user_queues")
        assert tuple((await connection.execute(counters)).one()) == (0, 0)
