"""Nothing waits for ever: leases, missing answers, backoffs, deadlines, and dispatchers that were frozen."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from contracts.storage import OutputMissing
from generation.domain import provider_events
from generation.domain.order import Order
from generation.domain.policy import Policy
from generation.loops.attempt_checks import AttemptChecks
from generation.repository.attempts import take_due_checks
from generation.repository.fair_queue import ClaimedOrder
from generation.repository.orders import lock_orders, save_orders
from tests.generation.harness import GenerationHarness, order
from tests.generation.integration.test_handlers import timers
from tests.generation.provider import Respond, answering, responds, responds_after
from tests.support.waiting import eventually


@pytest.fixture
async def claimed(harness: GenerationHarness) -> ClaimedOrder:
    await harness.enqueue(order())
    [one] = await harness.claim()
    return one


def checks(harness: GenerationHarness) -> AttemptChecks:
    """The checks of one process, for attempts without a job: no provider is asked."""
    client: Any = None
    return AttemptChecks(harness.transactions, client, harness.policy, harness.wake_ups)


async def lease_ends(harness: GenerationHarness) -> None:
    await harness.execute("UPDATE generation.attempts SET check_at = clock_timestamp()")
    await checks(harness).check_attempts()


async def deadline_passes(harness: GenerationHarness, generation_id: UUID) -> None:
    await harness.execute(
        "UPDATE generation.video_generations SET deadline_at = clock_timestamp(), expires_at = clock_timestamp()"
        " WHERE generation_id = :id",
        id=generation_id,
    )
    await timers(harness).process_timers()


async def storage_finds_nothing(harness: GenerationHarness, generation_id: UUID) -> None:
    row = await harness.row(generation_id)
    missing = OutputMissing(generation_id=generation_id, user_id=row.user_id, sought_version=row.sought_version)
    await harness.deliver(harness.handlers.output_missing, missing)


async def record_answer(harness: GenerationHarness, claimed: ClaimedOrder, job_id: str) -> Order:
    """What a dispatcher records when it has its answer, however late it comes."""

    def submit(one: Order, now: datetime) -> None:
        attempt = one.get_attempt(claimed.attempt_id)
        provider_events.submitted(one, attempt, claimed.fence_token, job_id, harness.policy, now)

    return await harness.change(claimed.generation_id, submit)


async def test_the_attempt_of_a_dead_dispatcher_is_looked_up_and_retried(
    harness: GenerationHarness, claimed: ClaimedOrder
) -> None:
    await lease_ends(harness)
    [attempt] = await harness.attempts(claimed.generation_id)
    assert (attempt.status, attempt.fence_token) == ("unknown", 2)
    await lease_ends(harness)
    assert (await harness.announced(claimed.generation_id))[-1] == "output-sought"
    await storage_finds_nothing(harness, claimed.generation_id)
    assert await harness.claim() == [], "not before the backoff is over"
    await harness.execute("UPDATE generation.video_generations SET next_attempt_at = clock_timestamp()")
    await timers(harness).process_timers()
    [again] = await harness.claim()
    assert (again.generation_id, again.attempt_number) == (claimed.generation_id, 2)


async def test_an_order_whose_dispatcher_died_before_it_sent_it_goes_again_at_once(harness: GenerationHarness) -> None:
    await harness.enqueue(order())
    [unsent] = await harness.claim(sent=False)
    await lease_ends(harness)
    [again] = await harness.claim()
    assert (again.generation_id, again.attempt_number) == (unsent.generation_id, 2)
    assert [attempt.status for attempt in await harness.attempts(unsent.generation_id)] == ["refused", "prepared"]
    assert (await harness.row(unsent.generation_id)).failures == 0
    assert await harness.counters() == (0, 1)


async def test_a_slow_dispatcher_may_not_send_what_goes_again(harness: GenerationHarness) -> None:
    await harness.enqueue(order())
    [slow] = await harness.claim(sent=False)
    await lease_ends(harness)
    assert await harness.mark_sending(slow) == set()


async def test_a_dispatcher_is_too_late_once_its_attempt_is_taken_for_a_check(harness: GenerationHarness) -> None:
    await harness.enqueue(order())
    [slow] = await harness.claim(sent=False)
    await harness.execute("UPDATE generation.attempts SET check_at = clock_timestamp()")
    async with harness.engine.begin() as connection:
        [taken] = await take_due_checks(connection, 10, 60.0)
    assert await harness.mark_sending(slow) == set()
    assert (taken.status, taken.fence_token) == ("prepared", slow.fence_token + 1)


async def test_a_change_of_an_order_does_not_take_back_that_it_was_sent(harness: GenerationHarness) -> None:
    await harness.enqueue(order())
    [one] = await harness.claim(sent=False)
    async with harness.transactions.begin() as tx:
        locked = await lock_orders(tx.connection, [one.generation_id])
        assert await harness.mark_sending(one) == {one.attempt_id}
        locked.orders[one.generation_id].attempts[0].started_at = locked.now
        await save_orders(tx, locked)
    await lease_ends(harness)
    [attempt] = await harness.attempts(one.generation_id)
    assert attempt.sending_at is not None
    assert attempt.status == "running"


async def test_a_zombie_dispatcher_cannot_revive_a_lost_attempt(
    harness: GenerationHarness, claimed: ClaimedOrder
) -> None:
    await lease_ends(harness)
    await lease_ends(harness)
    one = await record_answer(harness, claimed, "zombie-job")
    assert one.attempts[0].status == "lost"
    assert one.attempts[0].cancel_due_at is not None, "its job is stopped instead"


async def test_a_slow_dispatcher_still_records_the_job_id_after_its_lease(
    harness: GenerationHarness, claimed: ClaimedOrder
) -> None:
    await lease_ends(harness)
    one = await record_answer(harness, claimed, "slow-job")
    assert (one.attempts[0].status, one.attempts[0].provider_job_id) == ("submitted", "slow-job")


async def test_two_replicas_resolve_each_attempt_once(harness: GenerationHarness) -> None:
    await harness.enqueue(*(order() for _ in range(30)))
    claimed = await harness.claim(30)
    await harness.execute("UPDATE generation.attempts SET status = 'unknown', check_at = clock_timestamp()")
    both = checks(harness)
    await asyncio.gather(both.check_attempts(), both.check_attempts())
    for one in claimed:
        assert (await harness.announced(one.generation_id)).count("output-sought") == 1


async def test_three_failed_attempts_fail_the_order_and_free_every_counter(harness: GenerationHarness) -> None:
    one = order()
    await harness.enqueue(one)
    for _ in range(3):
        await harness.execute("UPDATE generation.video_generations SET next_attempt_at = clock_timestamp()")
        await timers(harness).process_timers()
        assert len(await harness.claim()) == 1
        await lease_ends(harness)
        await lease_ends(harness)
        await storage_finds_nothing(harness, one.generation_id)
    row = await harness.row(one.generation_id)
    assert (row.status, row.failure_code, row.failures) == ("failed", "provider_unavailable", 3)
    assert await harness.counters() == (0, 0)
    assert (await harness.announced(one.generation_id))[-1] == "generation-failed"


async def test_an_order_that_was_never_served_fails_at_its_deadline(harness: GenerationHarness) -> None:
    one = order()
    await harness.enqueue(one)
    await deadline_passes(harness, one.generation_id)
    row = await harness.row(one.generation_id)
    assert (row.status, row.failure_code) == ("failed", "deadline_exceeded")
    assert await harness.counters() == (0, 0)


async def test_an_order_that_may_have_run_is_looked_up_at_its_deadline(
    harness: GenerationHarness, claimed: ClaimedOrder
) -> None:
    await deadline_passes(harness, claimed.generation_id)
    assert (await harness.announced(claimed.generation_id))[-1] == "output-sought"
    await storage_finds_nothing(harness, claimed.generation_id)
    assert (await harness.row(claimed.generation_id)).failure_code == "deadline_exceeded"


async def test_a_lookup_that_storage_never_answers_ends_by_itself(
    harness: GenerationHarness, claimed: ClaimedOrder
) -> None:
    await deadline_passes(harness, claimed.generation_id)
    await deadline_passes(harness, claimed.generation_id)
    assert await harness.status(claimed.generation_id) == "failed"


async def test_timers_use_the_databases_clock(harness: GenerationHarness, claimed: ClaimedOrder) -> None:
    [attempt] = await harness.attempts(claimed.generation_id)
    [clock] = await harness.query("SELECT clock_timestamp() AS now")
    assert abs(attempt.check_at - clock.now - timedelta(seconds=30)) < timedelta(seconds=5)
    one = await record_answer(harness, claimed, "job-1")
    assert abs(one.attempts[0].check_at - clock.now - Policy().first_check) < timedelta(seconds=5)


@pytest.mark.parametrize(
    ("job_id", "answer"),
    [
        ("odd", responds(b'{"status": "COMPLETED", "output": ' + b"[" * 100_000)),
        ("odd", responds(b"this is no gzip", "content-encoding: gzip")),
        ("o\nd\nd", responds(b"{}")),
    ],
)
async def test_a_job_that_cannot_be_polled_delays_no_other(
    harness: GenerationHarness, job_id: str, answer: Respond
) -> None:
    await harness.enqueue(order(), order())
    odd, lost = await harness.claim()
    for one, job in ((odd, job_id), (lost, "lost")):
        await record_answer(harness, one, job)
    await harness.execute("UPDATE generation.attempts SET check_at = clock_timestamp()")
    async with answering() as (provider, client):
        provider.answers = {
            "/v2/video-id/status/odd": answer,
            "/v2/video-id/status/lost": responds(b"", status="404 No"),
        }
        await AttemptChecks(harness.transactions, client, harness.policy, harness.wake_ups).check_attempts()
    assert [one.status for one in await harness.attempts(lost.generation_id)] == ["lost"]
    assert [one.status for one in await harness.attempts(odd.generation_id)] == ["submitted"]


async def test_an_endpoint_that_does_not_answer_delays_no_other(harness: GenerationHarness) -> None:
    await harness.enqueue(order(), order("flux-schnell"))
    [silent], [lost] = await harness.claim(endpoint="video"), await harness.claim(endpoint="image")
    for one in (silent, lost):
        await record_answer(harness, one, "job")
    await harness.execute("UPDATE generation.attempts SET check_at = clock_timestamp()")

    async def resolved() -> bool:
        return [one.status for one in await harness.attempts(lost.generation_id)] == ["lost"]

    late = asyncio.Event()
    async with answering() as (provider, client):
        provider.answers["/v2/video-id/status/job"] = responds_after(late, b'{"status": "IN_QUEUE"}')
        provider.answers["/v2/image-id/status/job"] = responds(b"", status="404 Not Found")
        checking = asyncio.create_task(
            AttemptChecks(harness.transactions, client, harness.policy, harness.wake_ups).check_attempts()
        )
        try:
            await eventually(resolved, what="the lost job is resolved while the other endpoint does not answer")
            assert not checking.done()
        finally:
            late.set()
            await checking
