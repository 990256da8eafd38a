"""The checker is checked: every planted violation of the ledger is found and named."""

from uuid import uuid4

import pytest
from sqlalchemy import text

from billing import conservation, handlers
from tests.billing.ledger_harness import LedgerHarness, clawback, completed, failed
from tests.support.databases import Database

"""A superuser's way around triggers and foreign keys. Checks and unique indexes stay."""

PLANTED_VIOLATIONS = {
    "all postings add up to zero": "UPDATE billing.balance_ledger SET amount_credits = amount_credits + 1"
    " WHERE posting_id = 1",
    "the postings of each transfer add up to zero": "DELETE FROM billing.balance_ledger WHERE posting_id = 2",
    "balances equal their postings and are not negative": "UPDATE billing.users"
    " SET available_credits = available_credits + 1 WHERE line_number > 1",
    "statement lines count 1, 2, 3 without a gap": "UPDATE billing.balance_ledger"
    " SET line_number = line_number + 1 WHERE line_number = (SELECT max(line_number) FROM billing.balance_ledger)",
    "held reservations add up to what is reserved": "UPDATE billing.reservations"
    " SET amount_credits = 29 WHERE status = 'held'",
    "the remainders of the grants add up to what is available": "UPDATE billing.grants"
    " SET remaining_credits = remaining_credits - 1 WHERE remaining_credits > 0",
    "a reservation is posted once and resolved as its resolution says": "UPDATE billing.reservation_resolutions"
    " SET captured_credits = captured_credits - 1, released_credits = released_credits + 1 WHERE status = 'captured'",
    "what a reservation drew from grants adds up to its amount": "DELETE FROM billing.reservation_grants",
    "a grant is posted once": "DELETE FROM billing.grants WHERE reason = 'purchase'",
    "a clawback is posted once": "DELETE FROM billing.clawbacks",
    "an order has one verdict": "INSERT INTO billing.refusals SELECT generation_id, user_id, 'account_frozen', 1, 1,"
    " now() FROM billing.reservations LIMIT 1",
}


@pytest.fixture
async def used_ledger(ledger: LedgerHarness) -> LedgerHarness:
    """A ledger in which everything has happened once."""
    user, payment = uuid4(), uuid4()
    await ledger.grant(user, 100, "signup")
    await ledger.grant(user, 50, "purchase", payment_id=payment)
    captured, released, _ = [await ledger.reserve(user, 30) for _ in range(3)]
    await ledger.handle(handlers.resolve, completed(user, captured, 20), failed(user, released))
    await ledger.handle(handlers.apply_commands, clawback(user, 20, payment))
    return ledger


async def test_a_sound_ledger_has_no_violations(used_ledger: LedgerHarness, database: Database) -> None:
    assert await conservation.check(used_ledger.engine) == []
    assert await conservation.check(database.engine("auditor")) == []


def test_every_invariant_has_a_planted_violation() -> None:
    assert set(PLANTED_VIOLATIONS) == set(conservation.INVARIANTS)


@pytest.mark.parametrize("invariant", PLANTED_VIOLATIONS)
async def test_the_check_finds_a_violation_of(invariant: str, used_ledger: LedgerHarness, database: Database) -> None:
    await database.tamper(PLANTED_VIOLATIONS[invariant])
    violations = await conservation.check(used_ledger.engine)
    assert invariant in {violation.invariant for violation in violations}
    assert all(violation.detail for violation in violations)


async def test_a_balanced_transfer_without_a_grant_behind_it_is_named(
    used_ledger: LedgerHarness, database: Database
) -> None:
    user = await used_ledger.scalar("SELECT user_id FROM billing.users")
    async with database.superuser_engine().begin() as connection:
        await connection.execute(
            text("""
                INSERT INTO billing.balance_ledger
                    (transfer_id, account, amount_credits, reason, user_id, line_number, grant_id, occurred_at)
                SELECT transfer, account, amount, 'goodwill', user_id, line, grant_id, now()
                FROM (SELECT gen_random_uuid() AS transfer, gen_random_uuid() AS grant_id) AS ids,
                     (SELECT user_id AS owner, line_number + 1 AS next FROM billing.users WHERE user_id = :user) AS u,
                     LATERAL (VALUES ('user:available', 1000, owner, next), ('platform:issued', -1000, NULL, NULL))
                         AS legs (account, amount, user_id, line)
            """),
            {"user": user},
        )
    found = {violation.invariant for violation in await conservation.check(used_ledger.engine)}
    assert found == {"a grant is posted once", "the remainders of the grants add up to what is available"}
