"""What the database itself refuses, tried as the role that the service runs under."""

import asyncio
from typing import Any, get_args
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from billing import conservation, handlers
from billing.tables import balance_ledger
from contracts.values import MovementReason
from messaging.ids import new_id
from tests.billing.ledger_harness import LedgerHarness, completed, order, received
from tests.support import eventually
from tests.support.databases import Database


async def _run(engine: AsyncEngine, statement: str, **parameters: Any) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(statement), parameters)


def leg(account: str, amount: int, user_id: UUID, line_number: int) -> dict[str, Any]:
    of_user = account.startswith("user:")
    return {
        "account": account,
        "amount_credits": amount,
        "user_id": user_id if of_user else None,
        "line_number": line_number if of_user else None,
    }


async def write_transfer(connection: AsyncConnection, *legs: dict[str, Any], reason: str = "goodwill") -> None:
    """Write one transfer with one statement, as the service does."""
    now = (await connection.execute(text("SELECT now()"))).scalar_one()
    common = {"transfer_id": new_id(), "grant_id": new_id(), "reason": reason, "occurred_at": now}
    await connection.execute(insert(balance_ledger).values([common | leg for leg in legs]))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing.balance_ledger SET amount_credits = 1",
        "DELETE FROM billing.balance_ledger",
        "TRUNCATE billing.balance_ledger",
        "UPDATE billing.users SET available_credits = 1000000",
        "UPDATE billing.users SET line_number = 0",
        "DELETE FROM billing.users",
        "INSERT INTO billing.users (user_id, available_credits) VALUES (gen_random_uuid(), 1000000)",
        "UPDATE billing.reservations SET status = 'released'",
        "UPDATE billing.reservation_resolutions SET captured_credits = 0",
        "DELETE FROM billing.reservation_resolutions",
        "UPDATE billing.grants SET amount_credits = 1000000",
        "UPDATE billing.grants SET expires_at = NULL",
        "DELETE FROM billing.grants",
        "DELETE FROM billing.clawbacks",
        "UPDATE billing.operator_grants SET actor = 'x'",
        "DELETE FROM billing.operator_grants",
        "UPDATE billing.ledger_seals SET seal_hash = previous_hash",
        "DELETE FROM billing.ledger_seals",
        "ALTER TABLE billing.balance_ledger DISABLE TRIGGER ALL",
        "DROP TABLE billing.balance_ledger",
    ],
)
async def test_the_service_may_not(ledger: LedgerHarness, statement: str) -> None:
    await ledger.grant(uuid4(), 10)
    with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
        await _run(ledger.engine, statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing.balance_ledger SET amount_credits = 1",
        "DELETE FROM billing.balance_ledger",
        "TRUNCATE billing.balance_ledger",
        "DELETE FROM billing.reservation_resolutions",
        "TRUNCATE billing.ledger_seals",
    ],
)
async def test_even_the_owner_of_the_schema_meets_the_append_only_trigger(database: Database, statement: str) -> None:
    with pytest.raises(IntegrityError, match="append-only"):
        await _run(database.engine("billing_migrator"), statement)


async def test_a_transfer_that_does_not_add_up_is_refused_at_commit(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 10)
    connection = await ledger.engine.connect()
    transaction = await connection.begin()
    await write_transfer(connection, leg("user:available", 5, user, 2), leg("platform:issued", -4, user, 2))
    with pytest.raises(IntegrityError, match="add up to 1"):
        await transaction.commit()
    await connection.close()
    assert await ledger.balance(user) == (10, 0, 0)


async def test_a_transfer_that_lacks_its_other_leg_is_refused_at_commit(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 10)
    with pytest.raises(IntegrityError, match="not complete"):
        async with ledger.engine.begin() as connection:
            await write_transfer(connection, leg("user:available", 5, user, 2))


async def test_a_transfer_between_two_users_is_refused(ledger: LedgerHarness) -> None:
    user, other = uuid4(), uuid4()
    await ledger.grant(user, 10)
    await ledger.grant(other, 10)
    legs = leg("user:available", -5, user, 2), leg("user:reserved", 5, other, 2)
    with pytest.raises(IntegrityError, match="not complete"):
        async with ledger.engine.begin() as connection:
            await write_transfer(connection, *legs, reason="reserve")


@pytest.mark.parametrize(
    ("reason", "legs", "constraint"),
    [
        ("reserve", (("user:available", -11), ("user:reserved", 11)), "available_is_not_negative"),
        ("release", (("user:reserved", -1), ("user:available", 1)), "reserved_is_not_negative"),
        ("receivable_settled", (("user:receivable", 10), ("user:available", -10)), "receivable_is_not_negative"),
        ("refund", (("user:receivable", -1), ("platform:refunded", 1)), "debts_are_settled_first"),
        ("goodwill", (("user:savings", -1), ("user:available", 1)), "account_exists"),
    ],
)
async def test_no_posting_can_make_a_balance_negative(
    ledger: LedgerHarness, reason: str, legs: tuple[tuple[str, int], ...], constraint: str
) -> None:
    user = uuid4()
    await ledger.grant(user, 10)
    with pytest.raises(IntegrityError, match=constraint):
        async with ledger.engine.begin() as connection:
            await write_transfer(
                connection, *(leg(account, amount, user, 2) for account, amount in legs), reason=reason
            )


MOVEMENTS = {
    "reserve": ("user:available", "user:reserved"),
    "capture": ("user:reserved", "platform:revenue"),
    "release": ("user:reserved", "user:available"),
    "expiry": ("user:available", "platform:expired"),
    "receivable_settled": ("user:available", "user:receivable"),
    "purchase": ("platform:issued", "user:available"),
    "bonus": ("platform:issued", "user:available"),
    "signup": ("platform:issued", "user:available"),
    "goodwill": ("platform:issued", "user:available"),
    "dispute_won": ("platform:refunded", "user:available"),
    "refund_failed": ("platform:refunded", "user:available"),
    "refund": ("user:available", "platform:refunded"),
    "dispute": ("user:available", "platform:refunded"),
}
"""From which account to which each reason moves credits; a missing amount is owed in ``user:receivable``."""


@pytest.mark.parametrize("reason", MOVEMENTS)
async def test_credits_move_only_between_the_accounts_of_their_reason_and_only_one_way(
    ledger: LedgerHarness, reason: str
) -> None:
    user = uuid4()
    await ledger.grant(user, 100)
    await ledger.reserve(user, 40)
    accounts = {account for pair in MOVEMENTS.values() for account in pair}
    allowed = {MOVEMENTS[reason]}
    if reason in ("refund", "dispute"):
        allowed.add(("user:receivable", "platform:refunded"))
    for source in accounts:
        for target in accounts - {source}:
            if (source, target) in allowed:
                continue
            legs = leg(source, -1, user, 3), leg(target, 1, user, 3)
            with pytest.raises(IntegrityError, match="movements_go_where_their_reason_says"):
                async with ledger.engine.begin() as connection:
                    await write_transfer(connection, *legs, reason=reason)


async def test_every_movement_that_the_service_makes_is_one_of_those() -> None:
    assert set(MOVEMENTS) == set(get_args(MovementReason))


@pytest.mark.parametrize("line_number", [1, 3])
async def test_a_line_that_does_not_continue_the_statement_is_refused(ledger: LedgerHarness, line_number: int) -> None:
    user = uuid4()
    await ledger.grant(user, 10)
    legs = [leg("user:available", 5, user, line_number), leg("platform:issued", -5, user, line_number)]
    with pytest.raises(DBAPIError, match=r"one_line_per_number|do not continue"):
        async with ledger.engine.begin() as connection:
            await write_transfer(connection, *legs)


async def test_a_posting_to_an_unknown_user_is_refused(ledger: LedgerHarness) -> None:
    user = uuid4()
    legs = [leg("user:available", 5, user, 1), leg("platform:issued", -5, user, 1)]
    with pytest.raises(IntegrityError, match="do not continue"):
        async with ledger.engine.begin() as connection:
            await write_transfer(connection, *legs)


async def test_a_second_resolution_of_one_reservation_is_refused(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 20)
    generation = await ledger.reserve(user, 20)
    await ledger.handle(handlers.resolve, completed(user, generation, 20))
    with pytest.raises(IntegrityError, match="one_resolution_per_reservation"):
        await _run(
            ledger.engine,
            "INSERT INTO billing.reservation_resolutions SELECT reservation_id, 'released', 0, 20, now()"
            " FROM billing.reservations WHERE generation_id = :generation",
            generation=generation,
        )


@pytest.mark.parametrize("captured", [19, 21])
async def test_a_resolution_over_another_amount_than_reserved_is_refused(ledger: LedgerHarness, captured: int) -> None:
    user = uuid4()
    await ledger.grant(user, 20)
    generation = await ledger.reserve(user, 20)
    with pytest.raises(IntegrityError, match="does not match a held reservation"):
        await _run(
            ledger.engine,
            "INSERT INTO billing.reservation_resolutions SELECT reservation_id, 'captured', :captured, 0, now()"
            " FROM billing.reservations WHERE generation_id = :generation",
            generation=generation,
            captured=captured,
        )


async def test_a_second_reservation_of_one_generation_is_refused(ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 20)
    generation = await ledger.reserve(user, 20)
    with pytest.raises(IntegrityError, match="one_reservation_per_generation"):
        await _run(
            ledger.engine,
            "INSERT INTO billing.reservations"
            " (reservation_id, generation_id, user_id, amount_credits, deadline_at, reserved_at)"
            " VALUES (gen_random_uuid(), :generation, :user_id, 1, now(), now())",
            generation=generation,
            user_id=user,
        )


async def test_an_order_cannot_be_refused_to_one_user_and_reserved_for_another(
    ledger: LedgerHarness, database: Database
) -> None:
    rich, poor, generation = uuid4(), uuid4(), new_id()
    await ledger.grant(rich, 20)
    other = LedgerHarness(database.engine("billing"))
    async with ledger.transactions.begin() as transaction:
        await handlers.reserve(transaction, [received(order(rich, 10, generation))])
        refusing = asyncio.create_task(other.handle(handlers.reserve, order(poor, 10, generation)))
        await eventually(lambda: _waits_for_a_lock(database))
    with pytest.raises(IntegrityError, match="an_order_has_one_verdict"):
        await refusing
    assert await conservation.check(ledger.engine) == []


async def _waits_for_a_lock(database: Database) -> bool:
    async with database.superuser_engine().connect() as connection:
        query = text(
            "SELECT EXISTS (SELECT FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock')"
        )
        return bool((await connection.execute(query)).scalar_one())


async def test_a_second_purchase_grant_for_one_payment_is_refused(ledger: LedgerHarness) -> None:
    user, payment = uuid4(), uuid4()
    await ledger.grant(user, 20, "purchase", payment_id=payment)
    with pytest.raises(IntegrityError, match="one_grant_per_payment"):
        await _run(
            ledger.engine,
            "INSERT INTO billing.grants (grant_id, content_hash, user_id, amount_credits, remaining_credits, reason,"
            " actor, payment_id, granted_at) VALUES (gen_random_uuid(), '', :user_id, 1, 1, 'purchase', 'x', :payment,"
            " now())",
            payment=payment,
            user_id=user,
        )


async def test_the_remainder_of_a_grant_is_within_its_amount(ledger: LedgerHarness) -> None:
    await ledger.grant(uuid4(), 20)
    for remaining in (-1, 21):
        with pytest.raises(IntegrityError, match="remaining_is_part_of_the_grant"):
            await _run(ledger.engine, "UPDATE billing.grants SET remaining_credits = :remaining", remaining=remaining)
