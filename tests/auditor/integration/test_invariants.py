"""The checker itself: a healthy platform passes, and every kind of damage is named, down to the row.

Each case damages the database as its superuser, past triggers and constraints, in the way that its invariant is about.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from auditor.checking import check, evaluate
from auditor.invariants import INVARIANTS
from service_runtime.database import engine_for
from tests.auditor.world import SERVICES, World, build_world, damage_within
from tests.support.databases import Database, DatabaseFactory

AT_REST = 0.0
AN_HOUR = 3600.0


@dataclass(frozen=True)
class Damage:
    """``sql`` is what somebody did; the check must name ``code`` with ``subject``, at once or once it is old enough."""

    code: str
    subject: str
    sql: tuple[str, ...]
    waits: bool = False
    """Whether the invariant leaves young rows alone, because a message might still be under way."""


DAMAGES = (
    Damage(
        "transfers_sum_to_zero",
        "{transfer}",
        ("UPDATE billing.balance_ledger SET amount_credits = amount_credits + 1 WHERE posting_id = 1",),
    ),
    Damage(
        "balances_equal_postings",
        "{user}",
        ("UPDATE billing.users SET available_credits = available_credits + 1 WHERE user_id = '{user}'",),
    ),
    Damage(
        "balances_equal_postings",
        "{other_user}",
        ("DELETE FROM billing.balance_ledger WHERE user_id = '{other_user}'",),
    ),
    Damage(
        "nothing_is_negative",
        "{user}",
        (
            "ALTER TABLE billing.users DROP CONSTRAINT available_is_not_negative",
            "UPDATE billing.users SET available_credits = -1 WHERE user_id = '{user}'",
        ),
    ),
    Damage(
        "nothing_is_negative",
        "{user}",
        (
            "ALTER TABLE billing.grants DROP CONSTRAINT remaining_is_part_of_the_grant",
            "UPDATE billing.grants SET remaining_credits = -1 WHERE grant_id = '{bonus}'",
        ),
    ),
    Damage(
        "one_reservation_per_generation",
        "{running}",
        (
            "ALTER TABLE billing.reservations DROP CONSTRAINT one_reservation_per_generation",
            """
            INSERT INTO billing.reservations (reservation_id, generation_id, user_id, amount_credits, deadline_at,
                                              reserved_at)
            SELECT gen_random_uuid(), generation_id, user_id, amount_credits, deadline_at, reserved_at
            FROM billing.reservations WHERE generation_id = '{running}'
            """,
        ),
    ),
    Damage(
        "one_resolution_per_reservation",
        "{failed}",
        (
            "ALTER TABLE billing.reservation_resolutions DROP CONSTRAINT one_resolution_per_reservation",
            """
            INSERT INTO billing.reservation_resolutions
            SELECT e.* FROM billing.reservation_resolutions AS e JOIN billing.reservations USING (reservation_id)
            WHERE generation_id = '{failed}'
            """,
        ),
    ),
    Damage(
        "one_resolution_per_reservation",
        "{delivered}",
        (
            """
            DELETE FROM billing.reservation_resolutions WHERE reservation_id =
                (SELECT reservation_id FROM billing.reservations WHERE generation_id = '{delivered}')
            """,
        ),
    ),
    Damage(
        "reservations_match_postings",
        "{delivered}",
        (
            """
            INSERT INTO billing.balance_ledger (transfer_id, account, amount_credits, reason, user_id, line_number,
                                                generation_id, occurred_at)
            SELECT gen_random_uuid(), account, amount_credits, reason, user_id,
                   CASE WHEN user_id IS NOT NULL THEN 1000 END, generation_id, now()
            FROM billing.balance_ledger WHERE generation_id = '{delivered}' AND reason = 'capture'
            """,
        ),
    ),
    Damage(
        "held_reservations_are_backed",
        "{user}",
        (
            """
            UPDATE billing.reservations SET status = 'held', resolved_at = NULL, captured_credits = 0
            WHERE generation_id = '{failed}'
            """,
        ),
    ),
    Damage(
        "grants_back_what_is_available",
        "{user}",
        ("UPDATE billing.grants SET remaining_credits = remaining_credits - 1 WHERE grant_id = '{purchase}'",),
    ),
    Damage(
        "statement_lines_have_no_gaps",
        "{user}",
        ("UPDATE billing.balance_ledger SET line_number = line_number + 100 WHERE user_id = '{user}'",),
    ),
    Damage(
        "an_order_has_one_verdict",
        "{running}",
        (
            """
            INSERT INTO billing.refusals
            SELECT '{running}', user_id, code, required_credits, available_credits, refused_at FROM billing.refusals
            """,
        ),
    ),
    Damage(
        "requests_get_a_verdict",
        "{refused}",
        ("DELETE FROM billing.refusals",),
        waits=True,
    ),
    Damage(
        "reservations_have_their_generation",
        "{failed}",
        ("DELETE FROM generation.video_generations WHERE generation_id = '{failed}'",),
        waits=True,
    ),
    Damage(
        "reservations_have_their_generation",
        "{delivered}",
        ("UPDATE generation.video_generations SET price_credits = 1 WHERE generation_id = '{delivered}'",),
    ),
    Damage(
        "generations_are_funded",
        "{running}",
        ("DELETE FROM billing.reservations WHERE generation_id = '{running}'",),
    ),
    Damage(
        "captures_have_an_asset",
        "{delivered}",
        ("DELETE FROM storage.assets WHERE generation_id = '{delivered}'",),
    ),
    Damage(
        "completed_generations_have_an_asset",
        "{late}",
        ("UPDATE generation.video_generations SET asset_id = gen_random_uuid() WHERE generation_id = '{late}'",),
    ),
    Damage(
        "one_asset_per_generation",
        "{delivered}",
        ("UPDATE storage.assets SET user_id = '{other_user}' WHERE generation_id = '{delivered}'",),
    ),
    Damage(
        "one_asset_per_generation",
        "{delivered}",
        (
            "ALTER TABLE storage.assets DROP CONSTRAINT one_asset_per_generation_and_role",
            "UPDATE storage.assets SET generation_id = '{delivered}', role = 'output'",
        ),
    ),
    Damage(
        "outcomes_agree_with_reservations",
        "{delivered}",
        (
            """
            UPDATE generation.video_generations SET status = 'failed', asset_id = NULL
            WHERE generation_id = '{delivered}'
            """,
        ),
    ),
    Damage(
        "outcomes_agree_with_reservations",
        "{late}",
        ("UPDATE generation.video_generations SET late = false WHERE generation_id = '{late}'",),
    ),
    Damage(
        "outcomes_agree_with_reservations",
        "{failed}",
        (
            """
            UPDATE generation.video_generations SET status = 'running', finished_at = NULL
            WHERE generation_id = '{failed}'
            """,
        ),
    ),
    Damage(
        "outcomes_agree_with_reservations",
        "{running}",
        (
            """
            UPDATE generation.video_generations SET status = 'cancelled', finished_at = now()
            WHERE generation_id = '{running}'
            """,
        ),
        waits=True,
    ),
    Damage(
        "generations_meet_their_deadlines",
        "{running}",
        ("UPDATE generation.video_generations SET deadline_at = now() WHERE generation_id = '{running}'",),
        waits=True,
    ),
    Damage(
        "reservations_end_in_time",
        "{running}",
        ("UPDATE billing.reservations SET deadline_at = now() WHERE generation_id = '{running}'",),
        waits=True,
    ),
    Damage(
        "refused_orders_are_not_made",
        "{refused}",
        ("UPDATE generation.video_generations SET generation_id = '{refused}' WHERE generation_id = '{running}'",),
    ),
    Damage(
        "one_grant_per_payment",
        "{payment}",
        (
            "DROP INDEX billing.one_grant_per_payment",
            """
            INSERT INTO billing.grants SELECT gen_random_uuid(), content_hash, user_id, amount_credits,
                remaining_credits, reason, actor, payment_id, note, expires_at, granted_at
            FROM billing.grants WHERE grant_id = '{purchase}'
            """,
        ),
    ),
    Damage(
        "payments_reach_the_ledger",
        "{payment}",
        ("DELETE FROM billing.grants WHERE grant_id = '{bonus}'",),
        waits=True,
    ),
    Damage(
        "payments_reach_the_ledger",
        "{payment}",
        (
            "UPDATE payments.credit_movements SET amount_credits = 99, ordered_at = now() - interval '1 day'"
            " WHERE movement_id = '{purchase}'",
        ),
    ),
    Damage(
        "settled_payments_are_credited",
        "{payment}",
        ("DELETE FROM payments.credit_movements WHERE movement_id = '{purchase}'",),
    ),
    Damage(
        "bought_credits_have_a_payment",
        "{purchase}",
        ("DELETE FROM payments.credit_movements WHERE movement_id = '{purchase}'",),
    ),
    Damage(
        "balances_shown_equal_billings",
        "{user}",
        ("UPDATE gateway.balances SET available_credits = available_credits + 1 WHERE user_id = '{user}'",),
        waits=True,
    ),
    Damage(
        "balances_shown_equal_billings",
        "{running}",
        ("UPDATE gateway.balances SET user_id = '{running}' WHERE user_id = '{other_user}'",),
    ),
    Damage(
        "balances_shown_follow_the_statement",
        "{user}",
        ("UPDATE gateway.balances SET reserved_credits = reserved_credits + 1 WHERE user_id = '{user}'",),
    ),
    Damage(
        "balances_shown_follow_the_statement",
        "{other_user}",
        ("UPDATE gateway.balances SET line_number = line_number + 1 WHERE user_id = '{other_user}'",),
    ),
    Damage(
        "statements_add_up",
        "{user}",
        (
            """
            UPDATE gateway.ledger_lines SET available_after_credits = available_after_credits + 1
            WHERE user_id = '{user}' AND line_number = 3
            """,
        ),
    ),
    Damage(
        "statements_show_the_ledger",
        "{user}",
        ("DELETE FROM gateway.ledger_lines WHERE user_id = '{user}' AND line_number = 3",),
        waits=True,
    ),
    Damage(
        "statements_show_the_ledger",
        "{other_user}",
        (
            """
            UPDATE gateway.ledger_lines SET available_delta_credits = 49, available_after_credits = 49
            WHERE user_id = '{other_user}'
            """,
        ),
    ),
    Damage(
        "statements_show_the_ledger",
        "{other_user}",
        ("UPDATE gateway.ledger_lines SET line_number = 2 WHERE user_id = '{other_user}'",),
    ),
    Damage(
        "outcomes_are_shown",
        "{failed}",
        ("UPDATE gateway.generations SET status = 'running' WHERE generation_id = '{failed}'",),
        waits=True,
    ),
    Damage(
        "outcomes_are_shown",
        "{refused}",
        ("UPDATE gateway.generations SET status = 'requested' WHERE generation_id = '{refused}'",),
        waits=True,
    ),
    Damage(
        "settled_payments_are_shown",
        "{payment}",
        ("DELETE FROM gateway.payments",),
        waits=True,
    ),
    Damage(
        "settled_payments_are_shown",
        "{payment}",
        ("UPDATE gateway.payments SET version = 4, status = 'refunded'",),
    ),
    Damage(
        "outboxes_are_published",
        "{message}",
        ("UPDATE billing.outbox_messages SET published_at = NULL WHERE message_id = '{message}'",),
        waits=True,
    ),
    Damage(
        "no_dead_letters",
        "{message}",
        (
            """
            INSERT INTO generation.dead_letters (consumer, message_id, subject, stream, payload, headers, reason, error,
                                                 deliveries)
            VALUES ('generation-billing', '{message}', 'x', 'BILLING', '', '{{}}', 'poison', 'it broke', 5)
            """,
        ),
    ),
    Damage(
        "the_journal_is_complete",
        "{message}",
        ("DELETE FROM auditor.journal WHERE message_id = '{message}'",),
        waits=True,
    ),
)


@pytest.fixture(scope="module")
def shared(database_factory: DatabaseFactory) -> Iterator[tuple[Database, World]]:
    """One healthy platform for all cases: each damages it in a transaction and takes that back."""

    async def build() -> tuple[Database, World]:
        database = await database_factory.make(SERVICES)
        world = await build_world(database)
        await database.dispose()
        return database, world

    database, world = asyncio.run(build())
    yield database, world
    asyncio.run(database_factory.drop(database))


@pytest.fixture
async def superuser(shared: tuple[Database, World]) -> AsyncIterator[AsyncConnection]:
    """A transaction that is rolled back."""
    engine = engine_for(shared[0].superuser_dsn, application_name="test")
    async with engine.connect() as connection:
        yield connection
        await connection.rollback()
    await engine.dispose()


async def found(connection: AsyncConnection, tolerance: float) -> set[tuple[str, str]]:
    report = await evaluate(connection, tolerance)
    return {(violation.code, violation.subject) for violation in report.violations}


async def test_a_healthy_platform_violates_nothing(shared: tuple[Database, World]) -> None:
    engine = engine_for(shared[0].dsn("auditor"), application_name="test")
    report = await check(engine, AT_REST)
    await engine.dispose()
    assert report.violations == ()
    assert {result.invariant.code for result in report.results} == {one.code for one in INVARIANTS}


@pytest.mark.parametrize("case", DAMAGES, ids=lambda case: f"{case.code}-{case.subject.strip('{}')}")
async def test_damage_is_named(shared: tuple[Database, World], superuser: AsyncConnection, case: Damage) -> None:
    names = await damage_within(superuser, shared[1], *case.sql)
    expected = (case.code, case.subject.format(**names))
    assert expected in await found(superuser, AT_REST)
    # With an hour's tolerance, only what no message under way can explain is a violation of that invariant.
    assert (expected in await found(superuser, AN_HOUR)) is not case.waits


def test_every_invariant_has_damage_that_proves_it() -> None:
    assert {one.code for one in INVARIANTS} == {case.code for case in DAMAGES}
    assert len({one.code for one in INVARIANTS}) == len(INVARIANTS)
