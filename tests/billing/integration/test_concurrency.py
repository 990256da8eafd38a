"""Many at once: real transactions on separate connections, and real commits."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from billing import conservation, handlers
from billing.repository import ledger as ledger_repository
from contracts.billing import CreditsCaptured, CreditsRefused, CreditsReleased, CreditsReserved
from contracts.message import Message
from tests.billing.ledger_harness import LedgerHarness, cancelled, completed, failed, grant, order, received
from tests.support.databases import Database


async def _deadlocks(database: Database) -> int:
    async with database.superuser_engine().connect() as connection:
        query = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int((await connection.execute(query)).scalar_one())


async def test_ten_orders_of_ten_on_a_balance_of_thirty_reserve_three_and_refuse_seven(
    database: Database,
) -> None:
    ledgers = [LedgerHarness(database.engine("billing", pool_size=1)) for _ in range(10)]
    for _ in range(5):
        user = uuid4()
        await ledgers[0].grant(user, 30)
        outcomes = await asyncio.gather(*(ledger.handle(handlers.reserve, order(user, 10)) for ledger in ledgers))
        kinds = [type(event) for (event,) in outcomes]
        assert (kinds.count(CreditsReserved), kinds.count(CreditsRefused)) == (3, 7)
        assert await ledgers[0].balance(user) == (0, 30, 0)


async def test_one_grant_from_ten_connections_at_once_is_credited_once(database: Database) -> None:
    ledgers = [LedgerHarness(database.engine("billing", pool_size=1)) for _ in range(10)]
    user, payment = uuid4(), uuid4()
    command = grant(user, 30, "purchase", payment_id=payment)
    outcomes = await asyncio.gather(*(ledger.handle(handlers.apply_commands, command) for ledger in ledgers))
    assert sorted(len(events) for events in outcomes) == [0] * 9 + [1]
    assert await ledgers[0].balance(user) == (30, 0, 0)


OUTCOMES: tuple[Callable[[UUID, UUID], Message], ...] = (
    lambda user, generation: completed(user, generation, 7),
    cancelled,
    lambda user, generation: failed(user, generation, "deadline_exceeded"),
)


@pytest.mark.timeout(180)
async def test_of_a_thousand_captures_against_releases_each_has_one_winner(
    database: Database,
) -> None:
    ledgers = [LedgerHarness(database.engine("billing", pool_size=1)) for _ in range(12)]
    chance = random.Random(20261123)
    users = [uuid4() for _ in range(20)]
    requests = [order(users[number % 20], 10) for number in range(1_000)]
    await ledgers[0].handle(handlers.apply_commands, *(grant(user, 500) for user in users))
    await ledgers[0].handle(handlers.reserve, *requests)
    contenders = [
        outcome(request.order.user_id, request.order.generation_id) for request in requests for outcome in OUTCOMES
    ]
    chance.shuffle(contenders)
    batches = [contenders[start : start + 25] for start in range(0, len(contenders), 25)]

    async def work(ledger: LedgerHarness) -> list[Message]:
        events: list[Message] = []
        while batches:
            events += await ledger.handle(handlers.resolve, *batches.pop())
        return events

    events = [event for done in await asyncio.gather(*map(work, ledgers)) for event in done]
    resolved = [event for event in events if isinstance(event, CreditsCaptured | CreditsReleased)]
    assert len(resolved) == len(events)
    generations = [event.generation_id for event in resolved]
    assert len(generations) == len(set(generations)) == 1_000
    captured = sum(isinstance(event, CreditsCaptured) for event in events)
    total = [await ledgers[0].balance(user) for user in users]
    assert sum(available for available, _, _ in total) == 20 * 500 - 7 * captured
    assert sum(reserved for _, reserved, _ in total) == 0
    assert await conservation.check(ledgers[0].engine) == []
    assert await _deadlocks(database) == 0


async def test_batches_that_open_and_use_the_same_users_in_opposite_order_do_not_deadlock(database: Database) -> None:
    ledgers = [LedgerHarness(database.engine("billing", pool_size=1)) for _ in range(8)]
    for _ in range(10):
        old, new = [uuid4() for _ in range(6)], [uuid4() for _ in range(6)]
        await ledgers[0].handle(handlers.apply_commands, *(grant(user, 100) for user in old))
        users = old + new
        batches = []
        for number in range(8):
            shuffled = random.Random(number).sample(users, len(users))
            batches.append([grant(user, 5) for user in shuffled])
        await asyncio.gather(
            *(ledger.handle(handlers.apply_commands, *batch) for ledger, batch in zip(ledgers, batches, strict=True))
        )
    assert await _deadlocks(database) == 0
    assert await conservation.check(ledgers[0].engine) == []


async def test_an_outcome_during_the_commit_of_its_reservation_is_deferred(
    ledger: LedgerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = uuid4()
    request = order(user, 10)
    find_reservations = ledger_repository.find_reservations
    async with AsyncExitStack() as opening:
        tx = await opening.enter_async_context(ledger.transactions.begin())
        await handlers.apply_commands(tx, [received(grant(user, 10))])
        await handlers.reserve(tx, [received(request)])

        async def find_after_commit(*arguments: Any) -> Any:
            await opening.aclose()
            return await find_reservations(*arguments)

        monkeypatch.setattr(ledger_repository, "find_reservations", find_after_commit)
        recording = await ledger.record(handlers.resolve, completed(user, request.order.generation_id, 10))
    assert len(recording.deferred) == 1
    assert await ledger.balance(user) == (0, 10, 0)
