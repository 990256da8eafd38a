"""Who is served next, within which limits: against real PostgreSQL."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from generation.domain.lifecycle import cancel
from generation.domain.order import Order
from generation.domain.policy import BreakerPolicy, Policy
from generation.repository import fair_queue
from generation.repository.attempts import mark_sending
from generation.repository.breaker import pause_queue, record_failure, record_success
from generation.repository.fair_queue import Claim, ClaimedOrder, claim_orders
from generation.repository.orders import lock_orders, save_orders
from messaging.ids import new_id
from messaging.transaction import Transactions
from service_runtime.backoff import Backoff
from tests.generation.orders import CAPS, ENDPOINT, configure, enqueue, limits, new_order
from tests.support.databases import Database
from tests.support.waiting import eventually

BREAKER = BreakerPolicy(3, Backoff(first=timedelta(seconds=60), longest=timedelta(seconds=300), jitter=0))


@pytest.fixture
async def engine(make_database: Callable[..., Awaitable[Database]]) -> AsyncEngine:
    return (await make_database("generation")).engine("generation")


async def claim(engine: AsyncEngine, batch: int, endpoint: str = ENDPOINT) -> Claim:
    async with engine.begin() as connection:
        ids = [new_id() for _ in range(batch)]
        return await claim_orders(connection, endpoint, ids, send_within_seconds=30, probe_seconds=10)


async def finish(engine: AsyncEngine, claimed: list[ClaimedOrder]) -> None:
    """End the attempts as if the provider had refused them for good: their users' slots become free."""
    async with Transactions(engine, "generation").begin() as tx:
        locked = await lock_orders(tx.connection, (order.generation_id for order in claimed))
        for order in locked.orders.values():
            end_attempts(order, locked.now)
        await save_orders(tx, locked)


def end_attempts(order: Order, now: datetime) -> None:
    for attempt in order.attempts:
        if attempt.live:
            attempt.end("failed", now)


async def test_a_user_with_10000_orders_does_not_starve_a_user_with_one(engine: AsyncEngine) -> None:
    greedy, modest = uuid4(), uuid4()
    async with engine.begin() as connection:
        await configure(connection)
        for _ in range(10):
            await enqueue(connection, [new_order(greedy) for _ in range(1000)])
        [wanted] = await enqueue(connection, [new_order(modest)])
    assert wanted in [order.generation_id for order in (await claim(engine, 2)).orders]


async def test_users_of_one_lane_are_served_in_turn(engine: AsyncEngine) -> None:
    users = [uuid4() for _ in range(3)]
    async with engine.begin() as connection:
        await configure(connection)
        for user in users:
            await enqueue(connection, [new_order(user) for _ in range(6)])
    served: list[UUID] = []
    for _ in range(4):
        claimed = (await claim(engine, 3)).orders
        served += [order.user_id for order in claimed]
        await finish(engine, claimed)
    assert [Counter(served[start : start + 3]) for start in range(0, 12, 3)] == [Counter(users)] * 4


async def test_a_user_who_comes_back_gets_one_turn_and_no_credit(engine: AsyncEngine) -> None:
    steady, returning = uuid4(), uuid4()
    async with engine.begin() as connection:
        await configure(connection, caps={"pro": 100, "standard": 100, "free": 100})
        await enqueue(connection, [new_order(steady) for _ in range(60)], {"standard": 100})
    await claim(engine, 40)
    async with engine.begin() as connection:
        await enqueue(connection, [new_order(returning) for _ in range(20)], {"standard": 100})
    served = Counter(order.user_id for order in (await claim(engine, 10)).orders)
    assert served == {steady: 5, returning: 5}


async def test_a_lane_that_comes_back_gets_its_share_and_no_credit(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await configure(connection, weights={"pro": 1, "standard": 1, "free": 1})
        await enqueue(connection, [new_order(uuid4(), "free") for _ in range(60)])
    await claim(engine, 40)
    async with engine.begin() as connection:
        await enqueue(connection, [new_order(uuid4(), "standard") for _ in range(20)])
    assert Counter(order.lane for order in (await claim(engine, 10)).orders) == {"free": 5, "standard": 5}


async def test_lanes_share_by_weight_and_none_starves(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await configure(connection)
        for lane in ("pro", "standard", "free"):
            for _ in range(60):
                await enqueue(connection, [new_order(uuid4(), lane) for _ in range(2)])
    shares: Counter[str] = Counter()
    for _ in range(10):
        claimed = (await claim(engine, 10)).orders
        async with engine.connect() as connection:
            rows = await connection.execute(
                text("SELECT lane FROM generation.video_generations WHERE generation_id = ANY(:ids)"),
                {"ids": [order.generation_id for order in claimed]},
            )
            shares.update(rows.scalars())
    assert (shares["pro"], shares["standard"], shares["free"]) == (60, 30, 10)


async def test_an_idle_lane_leaves_its_share_to_the_others(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await configure(connection)
        await enqueue(connection, [new_order(uuid4(), "free") for _ in range(50)])
    assert len((await claim(engine, 50)).orders) == 50


async def test_a_user_never_has_more_active_orders_than_the_cap(engine: AsyncEngine) -> None:
    user = uuid4()
    async with engine.begin() as connection:
        await configure(connection)
        await enqueue(connection, [new_order(user) for _ in range(10)])
    first = (await claim(engine, 10)).orders
    assert len(first) == CAPS["standard"]
    assert (await claim(engine, 10)).orders == []
    await finish(engine, first[:1])
    assert len((await claim(engine, 10)).orders) == 1


async def test_an_endpoint_never_holds_more_jobs_than_its_cap(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await configure(connection, limits(max_active=7))
        await enqueue(connection, [new_order(uuid4()) for _ in range(20)])
    claims = await asyncio.gather(*(claim(engine, 5) for _ in range(4)))
    assert sum(len(one.orders) for one in claims) == 7


async def test_the_token_bucket_says_when_to_come_again(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await configure(connection, limits(rate_per_second=0.5, burst=3))
        await enqueue(connection, [new_order(uuid4()) for _ in range(20)])
    assert len((await claim(engine, 10)).orders) == 3
    again = await claim(engine, 10)
    assert again.orders == []
    assert again.again_in_seconds is not None
    assert 0 < again.again_in_seconds <= 2


async def test_replicas_never_claim_the_same_order(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await configure(connection)
        await enqueue(connection, [new_order(uuid4()) for _ in range(200)])

    async def replica() -> list[UUID]:
        taken: list[UUID] = []
        while claimed := (await claim(engine, 7)).orders:
            taken += [order.generation_id for order in claimed]
        return taken

    taken = [one for replica_took in await asyncio.gather(*(replica() for _ in range(4))) for one in replica_took]
    assert len(taken) == len(set(taken)) == 200


async def test_a_locked_order_is_skipped(engine: AsyncEngine) -> None:
    user = uuid4()
    async with engine.begin() as connection:
        await configure(connection)
        first, second = await enqueue(connection, [new_order(user), new_order(user)])
    async with engine.begin() as connection:
        await lock_orders(connection, [first])
        assert [order.generation_id for order in (await claim(engine, 2)).orders] == [second]


async def test_failures_in_a_row_pause_the_endpoint_until_a_probe_succeeds(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await configure(connection)
        await enqueue(connection, [new_order(uuid4()) for _ in range(20)])
        for _ in range(BREAKER.threshold):
            await record_failure(connection, ENDPOINT, BREAKER, probe=False)
    paused = await claim(engine, 5)
    assert paused.orders == []
    assert paused.again_in_seconds == pytest.approx(60, abs=2)
    async with engine.begin() as connection:
        await let_pause_end(connection)
    [probe] = (await claim(engine, 5)).orders
    assert probe.probe
    assert (await claim(engine, 5)).orders == [], "one probe at a time"
    async with engine.begin() as connection:
        await record_success(connection, ENDPOINT, probe=False)
    assert (await claim(engine, 5)).orders == [], "an answer from before the pause proves nothing"
    async with engine.begin() as connection:
        await record_success(connection, ENDPOINT, probe=True)
    assert len((await claim(engine, 5)).orders) == 5


async def test_a_failed_probe_pauses_the_endpoint_for_longer(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await configure(connection)
        await enqueue(connection, [new_order(uuid4())])
        for _ in range(BREAKER.threshold):
            await record_failure(connection, ENDPOINT, BREAKER, probe=False)
        await record_failure(connection, ENDPOINT, BREAKER, probe=True)
    assert (await claim(engine, 1)).again_in_seconds == pytest.approx(120, abs=2)


async def test_a_pause_that_the_provider_asked_for_is_kept(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await configure(connection)
        await enqueue(connection, [new_order(uuid4())])
        await pause_queue(connection, ENDPOINT, 7.0)
    assert (await claim(engine, 1)).again_in_seconds == pytest.approx(7, abs=1)


async def let_pause_end(connection: AsyncConnection) -> None:
    await connection.execute(text("UPDATE generation.endpoints SET held_until = clock_timestamp()"))


async def test_a_database_clock_that_goes_back_does_not_stop_the_queue(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await configure(connection, limits(rate_per_second=10, burst=5))
        await enqueue(connection, [new_order(uuid4()) for _ in range(5)])
        await connection.execute(
            text("UPDATE generation.endpoints SET tokens_at = clock_timestamp() + interval '1 hour'")
        )
    assert len((await claim(engine, 5)).orders) == 5


async def test_a_claim_is_stored_by_the_mark_that_comes_before_its_request(engine: AsyncEngine) -> None:
    """The log is written in order, so that the one wait is for both."""
    async with engine.begin() as connection:
        await configure(connection)
        await enqueue(connection, [new_order(uuid4())])
        assert await waits_for_the_disk(connection)
    async with engine.begin() as connection:
        claimed = await claim_orders(connection, ENDPOINT, [new_id()], send_within_seconds=30, probe_seconds=10)
        assert not await waits_for_the_disk(connection)
    (order,) = claimed.orders
    async with engine.begin() as connection:
        assert await mark_sending(connection, [(order.attempt_id, order.fence_token)], 30) == {order.attempt_id}
        assert await waits_for_the_disk(connection)


async def waits_for_the_disk(connection: AsyncConnection) -> bool:
    """Whether the commit of this transaction will."""
    return bool(await connection.scalar(text("SHOW synchronous_commit")) == "on")


async def test_a_claim_that_waited_for_another_counts_what_that_one_took(engine: AsyncEngine) -> None:
    """Its snapshot is older than the lock that it waited for, and has an order that comes before the one taken."""
    async with engine.begin() as connection:
        await configure(connection, limits(max_active=1))
        await enqueue(connection, [new_order(uuid4(), "standard")])
    async with engine.begin() as connection:
        first = await claim_orders(connection, ENDPOINT, [new_id()], send_within_seconds=30, probe_seconds=10)
        async with engine.begin() as another:
            await enqueue(another, [new_order(uuid4(), "free")])
        second = asyncio.create_task(claim(engine, 1))
        await eventually(lambda: is_waited(engine), what="the second claim to wait for the endpoint")
    assert len(first.orders) == 1
    assert (await second).orders == []
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM generation.attempts")) == 1


async def test_a_claim_that_waited_for_another_takes_what_that_one_left(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await configure(connection, limits(max_active=2))
        await enqueue(connection, [new_order(uuid4()) for _ in range(3)])
    first, second = await one_after_another(engine)
    assert len(first.orders) == len(second.orders) == 1
    assert first.orders[0].generation_id != second.orders[0].generation_id


async def test_a_claim_that_others_forestall_again_and_again_comes_back_at_once(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue, "_MOST_TRIES", 1)
    async with engine.begin() as connection:
        await configure(connection)
        await enqueue(connection, [new_order(uuid4()) for _ in range(3)])
    _, second = await one_after_another(engine)
    assert second == Claim([], 0.0)


async def one_after_another(engine: AsyncEngine) -> tuple[Claim, Claim]:
    """Two claims of one order, of which the second waits for the first one's commit."""
    async with engine.begin() as connection:
        first = await claim_orders(connection, ENDPOINT, [new_id()], send_within_seconds=30, probe_seconds=10)
        second = asyncio.create_task(claim(engine, 1))
        await eventually(lambda: is_waited(engine), what="the second claim to wait for the endpoint")
    return first, await second


async def test_an_order_that_ends_while_a_claim_waits_is_not_taken(engine: AsyncEngine) -> None:
    """The claim's snapshot has it in the queue."""
    async with engine.begin() as connection:
        await configure(connection)
        ended, waiting = await enqueue(connection, [new_order(uuid4()) for _ in range(2)])
    async with engine.begin() as connection:
        await connection.execute(text("SELECT FROM generation.endpoints FOR UPDATE"))
        claiming = asyncio.create_task(claim(engine, 2))
        await eventually(lambda: is_waited(engine), what="the claim to wait for the endpoint")
        async with Transactions(engine, "generation").begin() as tx:
            locked = await lock_orders(tx.connection, [ended])
            cancel(locked.orders[ended], Policy(), locked.now)
            await save_orders(tx, locked)
    assert [order.generation_id for order in (await claiming).orders] == [waiting]
    async with engine.connect() as connection:
        statuses = await connection.execute(text("SELECT generation_id, status FROM generation.video_generations"))
        assert {row.generation_id: row.status for row in statuses} == {ended: "cancelled", waiting: "dispatching"}
        assert await connection.scalar(text("SELECT count(*) FROM generation.attempts")) == 1


async def is_waited(engine: AsyncEngine) -> bool:
    """Whether a session of this database waits for a row."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with engine.connect() as connection:
        return await connection.scalar(text(waiting)) is not None
