"""Amounts and balances are bounded: no command can bring an account where the next one fails."""

from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from billing import handlers
from billing.domain import MAX_AMOUNT_CREDITS, MAX_BALANCE_CREDITS
from billing.errors import BalanceTooLarge, InvalidAmount
from contracts.message import Message
from tests.billing.integration.test_constraints import leg, write_transfer
from tests.billing.ledger_harness import Handler, LedgerHarness, clawback, grant, order
from tests.support.databases import Database

TOO_LARGE = (MAX_AMOUNT_CREDITS + 1, 2**63 - 1, 10**30)


def _commands(amount: int) -> list[tuple[Handler, Message]]:
    return [
        (handlers.apply_commands, grant(uuid4(), amount)),
        (handlers.apply_commands, clawback(uuid4(), amount, uuid4())),
        (handlers.reserve, order(uuid4(), amount)),
    ]


@pytest.mark.parametrize("amount", TOO_LARGE)
async def test_an_amount_beyond_the_largest_is_refused(ledger: LedgerHarness, amount: int) -> None:
    for handler, message in _commands(amount):
        with pytest.raises(InvalidAmount):
            await ledger.handle(handler, message)


async def test_the_largest_amount_is_granted_reserved_and_taken_back(ledger: LedgerHarness) -> None:
    user, payment = uuid4(), uuid4()
    await ledger.grant(user, MAX_AMOUNT_CREDITS, "purchase", payment_id=payment)
    await ledger.reserve(user, MAX_AMOUNT_CREDITS)
    await ledger.handle(handlers.apply_commands, clawback(user, MAX_AMOUNT_CREDITS, payment))
    assert await ledger.balance(user) == (0, MAX_AMOUNT_CREDITS, MAX_AMOUNT_CREDITS)


async def test_a_refused_grant_leaves_the_account_as_it_was(ledger: LedgerHarness) -> None:
    user = uuid4()
    with pytest.raises(InvalidAmount):
        await ledger.grant(user, 2**63 - 1)
    await ledger.grant(user, 10)
    assert await ledger.balance(user) == (10, 0, 0)


async def test_a_full_balance_takes_no_grant_and_can_be_spent(database: Database, ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, MAX_AMOUNT_CREDITS)
    async with database.superuser_engine().begin() as connection:
        await connection.execute(
            text("UPDATE billing.users SET available_credits = :most WHERE user_id = :user"),
            {"most": MAX_BALANCE_CREDITS, "user": user},
        )
    with pytest.raises(BalanceTooLarge):
        await ledger.grant(user, 1)
    await ledger.reserve(user, 5)
    assert await ledger.balance(user) == (MAX_BALANCE_CREDITS - 5, 5, 0)
    with pytest.raises(BalanceTooLarge):
        await ledger.grant(user, 1)


async def test_the_database_bounds_amounts_and_balances(database: Database, ledger: LedgerHarness) -> None:
    user = uuid4()
    await ledger.grant(user, 10)
    beyond = MAX_AMOUNT_CREDITS + 1
    legs = leg("user:available", beyond, user, 2), leg("platform:issued", -beyond, user, 2)
    with pytest.raises(IntegrityError, match="amounts_are_bounded"):
        async with ledger.engine.begin() as connection:
            await write_transfer(connection, *legs)
    with pytest.raises(IntegrityError, match="balances_are_bounded"):
        async with database.superuser_engine().begin() as connection:
            await connection.execute(
                text("UPDATE billing.users SET available_credits = :most, reserved_credits = 1"),
                {"most": MAX_BALANCE_CREDITS},
            )
