"""The end of an order that no worker began in time, against everything that happens at the same moment."""

import asyncio
from datetime import UTC, datetime, timedelta

from contracts.storage import OutputMissing
from contracts.values import GenerationOrder
from generation.changes import save_changes
from generation.domain.lifecycle import deadline_passed
from generation.domain.provider_events import started, submitted
from generation.repository.fair_queue import ClaimedOrder
from generation.repository.orders import lock_orders
from messaging.transaction import Transaction
from tests.generation.harness import GenerationHarness, order
from tests.generation.integration.test_handlers import timers
from tests.support.waiting import eventually


def hurried() -> GenerationOrder:
    return order(start_before_at=datetime.now(UTC) + timedelta(minutes=10))


async def time_is_over(harness: GenerationHarness) -> None:
    """The time to start is over now, by the database's clock, for every order."""
    await harness.execute(
        "UPDATE generation.video_generations SET deadline_at = clock_timestamp(), start_before_at = clock_timestamp()"
    )


async def ends(harness: GenerationHarness, one: GenerationOrder) -> list[str]:
    """What gives credits back or takes them, as it was announced."""
    final = {"generation-failed", "generation-cancelled", "generation-completed"}
    return [name for name in await harness.announced(one.generation_id) if name in final]


async def begin(harness: GenerationHarness, tx: Transaction, claimed: ClaimedOrder) -> None:
    """The provider takes the job, and a worker begins."""
    locked = await lock_orders(tx.connection, [claimed.generation_id])
    one = locked.orders[claimed.generation_id]
    attempt = one.get_attempt(claimed.attempt_id)
    submitted(one, attempt, claimed.fence_token, "job-1", harness.policy, locked.now)
    started(one, attempt, locked.now)
    await save_changes(tx, locked, harness.wake_ups)


async def test_replicas_that_end_an_order_at_once_give_its_credits_back_once(harness: GenerationHarness) -> None:
    one = hurried()
    await harness.enqueue(one)
    await timers(harness).process_timers()
    assert await harness.status(one.generation_id) == "queued", "its time is not over"
    await time_is_over(harness)
    await asyncio.gather(*(timers(harness).process_timers() for _ in range(4)))
    row = await harness.row(one.generation_id)
    assert (row.status, row.failure_code) == ("failed", "not_started_in_time")
    assert await ends(harness, one) == ["generation-failed"]
    assert await harness.counters() == (0, 0)


async def test_orders_claimed_while_their_time_ends_end_once(harness: GenerationHarness) -> None:
    orders = [hurried() for _ in range(40)]
    await harness.enqueue(*orders)
    await time_is_over(harness)
    await asyncio.gather(
        timers(harness).process_timers(),
        *(harness.claim(5, sent=False) for _ in range(4)),
        timers(harness).process_timers(),
    )
    await timers(harness).process_timers()
    for one in orders:
        row = await harness.row(one.generation_id)
        if row.status != "failed":
            assert row.sought_version is not None, "it was claimed, and is looked up"
            missing = OutputMissing(
                generation_id=one.generation_id, user_id=one.user_id, sought_version=row.sought_version
            )
            await harness.deliver(harness.handlers.output_missing, missing)
        assert (await harness.row(one.generation_id)).failure_code == "not_started_in_time"
        assert await ends(harness, one) == ["generation-failed"]
    assert await harness.counters() == (0, 0)


async def test_a_begin_that_is_being_recorded_is_not_overtaken_by_the_end(harness: GenerationHarness) -> None:
    one = hurried()
    await harness.enqueue(one)
    [claimed] = await harness.claim()
    await harness.execute("UPDATE generation.video_generations SET deadline_at = clock_timestamp()")
    async with harness.transactions.begin() as tx:
        await begin(harness, tx, claimed)
        await timers(harness).process_timers()
    await timers(harness).process_timers()
    row = await harness.row(one.generation_id)
    assert (row.status, row.deadline_at) == ("running", row.expires_at)


async def test_a_begin_that_waits_for_the_end_is_no_begin(harness: GenerationHarness) -> None:
    one = hurried()
    await harness.enqueue(one)
    [claimed] = await harness.claim()

    async def begin_later() -> None:
        async with harness.transactions.begin() as tx:
            await begin(harness, tx, claimed)

    async with harness.transactions.begin() as tx:
        locked = await lock_orders(tx.connection, [one.generation_id])
        beginning = asyncio.create_task(begin_later())
        await eventually(lambda: _waits(harness), what="a begin that waits for the lock")
        deadline_passed(locked.orders[one.generation_id], harness.policy, locked.now)
        await save_changes(tx, locked, harness.wake_ups)
    await beginning
    assert (await harness.row(one.generation_id)).sought_code == "not_started_in_time"
    [attempt] = await harness.attempts(one.generation_id)
    assert (attempt.status, attempt.started_at) == ("lost", None)


async def test_a_begin_after_the_end_is_no_begin(harness: GenerationHarness) -> None:
    one = hurried()
    await harness.enqueue(one)
    [claimed] = await harness.claim()
    await time_is_over(harness)
    async with harness.transactions.begin() as tx:
        await begin(harness, tx, claimed)
    await timers(harness).process_timers()
    row = await harness.row(one.generation_id)
    assert (row.sought_code, row.sought_retry) == ("not_started_in_time", False)
    assert (await harness.attempts(one.generation_id))[0].cancel_due_at is not None


async def _waits(harness: GenerationHarness) -> bool:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(await harness.query(waiting))
