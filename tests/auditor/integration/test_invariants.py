"""The checker itself: a healthy platform passes, and every planted violation is named, down to the row.

Each case corrupts the database as its superuser, past triggers and constraints.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from auditor import consumers as auditor_consumers
from auditor.checking import check, evaluate
from auditor.invariants import INVARIANTS
from auditor.invariants import ledger as auditor_ledger
from auditor.invariants.deadlines import MATCH_ATTEMPTS, UNREADABLE_EVENT
from auditor.invariants.messages import INBOXES, WRITTEN_DOWN
from auditor.portions import LAST_ID, Ids, Range, scopes_of
from billing import conservation
from billing import consumers as billing_consumers
from contracts.generation import GenerationCompleted
from contracts.message import SERVICES
from gateway import consumers as gateway_consumers
from generation import consumers as generation_consumers
from messaging.ids import FIRST_ID, new_id
from messaging.received import Received
from messaging.transaction import Transactions
from payments import consumers as payments_consumers
from payments.domain import snapshots
from payments.handlers import provider_events
from service_runtime.database import engine_for
from storage import consumers as storage_consumers
from storage.intake import Intake
from tests.auditor.planted_violations import LEDGER, PLANTED_VIOLATIONS, PlantedViolation
from tests.auditor.platform_harness import PlatformHarness, build_platform, name_of
from tests.billing.ledger_harness import received
from tests.support.databases import DatabaseFactory

ROOT = Path(__file__).parents[3]
AT_REST = 0.0
AN_HOUR = 3600.0


@pytest.fixture(scope="module")
def shared(database_factory: DatabaseFactory) -> Iterator[PlatformHarness]:
    """One healthy platform for all cases: each corrupts it in a transaction that is rolled back."""

    async def build() -> PlatformHarness:
        database = await database_factory.make(SERVICES)
        platform = await build_platform(database)
        await database.dispose()
        return platform

    platform = asyncio.run(build())
    yield platform
    asyncio.run(database_factory.drop(platform.database))


@pytest.fixture
async def superuser(shared: PlatformHarness) -> AsyncIterator[AsyncConnection]:
    """A transaction that is rolled back."""
    engine = engine_for(shared.database.superuser_dsn, application_name="test")
    async with engine.connect() as connection:
        yield connection
        await connection.rollback()
    await engine.dispose()


async def found(connection: AsyncConnection, tolerance: float, code: str) -> set[str]:
    """The subjects that the invariant names."""
    [invariant] = [one for one in INVARIANTS if one.code == code]
    return {violation.subject for violation in (await evaluate(connection, invariant, tolerance)).violations}


async def found_by_portions(connection: AsyncConnection, code: str) -> set[str]:
    """The same, asked for the halves of every id there is, and then for the ids that were named alone."""
    [invariant] = [one for one in INVARIANTS if one.code == code]
    scopes = scopes_of(invariant)
    middle = UUID(int=LAST_ID.int // 2)
    named: set[str] = set()
    for scope in scopes:
        for portion in (Range(scope, FIRST_ID, middle), Range(scope, UUID(int=middle.int + 1), LAST_ID)):
            violations = (await evaluate(connection, invariant, AT_REST, portion)).violations
            keys = [UUID(violation.key or violation.subject) for violation in violations]
            again = (await evaluate(connection, invariant, AT_REST, Ids(scope, keys))).violations
            assert {one.subject for one in again} == {one.subject for one in violations}
            named |= {violation.subject for violation in violations}
    return named if scopes else await found(connection, AT_REST, code)


async def test_a_healthy_platform_violates_nothing(shared: PlatformHarness) -> None:
    engine = engine_for(shared.database.dsn("auditor"), application_name="test")
    report = await check(engine, AT_REST)
    await engine.dispose()
    assert report.violations == ()
    assert {result.invariant.code for result in report.results} == {one.code for one in INVARIANTS}


def _name(case: PlantedViolation) -> str:
    return f"{case.code}-{case.sql[-1].strip()[:100]}"


@pytest.mark.parametrize("case", PLANTED_VIOLATIONS, ids=_name)
async def test_a_planted_violation_is_named(
    shared: PlatformHarness, superuser: AsyncConnection, case: PlantedViolation
) -> None:
    names = await shared.corrupt_within(superuser, *case.sql)
    subject = case.subject.format(**names)
    if subject.startswith("SELECT"):
        subject = await superuser.scalar(text(subject))
    named = await found(superuser, AT_REST, case.code)
    assert subject in named
    assert await found_by_portions(superuser, case.code) == named
    # With an hour's tolerance, only what no message under way can explain is a violation of that invariant.
    assert (subject in await found(superuser, AN_HOUR, case.code)) is not case.waits


async def test_a_line_that_came_before_the_one_it_continues_is_no_violation(
    shared: PlatformHarness, superuser: AsyncConnection
) -> None:
    await shared.corrupt_within(superuser, "DELETE FROM gateway.ledger_lines WHERE line_number = 2")
    assert await found(superuser, AT_REST, "statements_add_up") == set()


def test_every_invariant_has_a_planted_violation() -> None:
    assert {one.code for one in INVARIANTS} == {case.code for case in PLANTED_VIOLATIONS}
    assert len({one.code for one in INVARIANTS}) == len(INVARIANTS)


def test_the_readme_lists_every_invariant() -> None:
    readme = (ROOT / "services" / "auditor" / "README.md").read_text()
    assert [one.code for one in INVARIANTS if f"`{one.code}`" not in readme] == []


OLD_NEWS = "UPDATE generation.outbox_messages SET published_at = now() - interval '1 hour'"
UNREAD = (OLD_NEWS, "DELETE FROM billing.inbox_messages", "DELETE FROM auditor.journal")
TRACES = ("messages_are_consumed", "the_journal_is_complete")
MOMENT = 60.0


@pytest.mark.parametrize("code", TRACES)
@pytest.mark.parametrize(
    "position",
    [
        "sequence = 0",
        "stream = 'ANOTHER'",
        "holder = 'somebody'",
        "verified_at = NULL",
        "recorded_at = now()",
    ],
)
async def test_what_a_stopped_consumer_has_not_read_yet_is_no_violation(
    shared: PlatformHarness, superuser: AsyncConnection, code: str, position: str
) -> None:
    names = await shared.corrupt_within(superuser, *UNREAD)
    completed = names[name_of(GenerationCompleted.subject)]
    assert completed in await found(superuser, MOMENT, code)
    await shared.corrupt_within(
        superuser,
        f"UPDATE auditor.relay_positions SET {position}",
        f"UPDATE billing.relay_positions SET {position}",
    )
    assert completed not in await found(superuser, MOMENT, code)
    assert completed in await found(superuser, AT_REST, code)


@pytest.mark.parametrize(
    "known",
    [
        """
        INSERT INTO billing.dead_letters (consumer, message_id, subject, stream, payload, headers, reason, error,
                                          deliveries)
        VALUES ('billing-generation', '{generation_event_generation_completed_v1}', 'x', 'X', '', '{{}}', 'poison', '',
                5)
        """,
        """
        INSERT INTO billing.delivery_attempts (consumer, message_id, last_reason, last_at)
        VALUES ('billing-generation', '{generation_event_generation_completed_v1}', 'early',
                now() - interval '90 seconds')
        """,
    ],
    ids=["given up", "put off"],
)
async def test_a_message_that_its_consumer_knows_of_is_not_lost(
    shared: PlatformHarness, superuser: AsyncConnection, known: str
) -> None:
    names = await shared.corrupt_within(superuser, *UNREAD, known)
    assert names[name_of(GenerationCompleted.subject)] not in await found(superuser, MOMENT, "messages_are_consumed")


async def test_a_message_that_was_put_off_and_never_came_back_is_lost(
    shared: PlatformHarness, superuser: AsyncConnection
) -> None:
    put_off = """
        INSERT INTO billing.delivery_attempts (consumer, message_id, last_reason, last_at)
        VALUES ('billing-generation', '{generation_event_generation_completed_v1}', 'early',
                now() - interval '3 minutes')
    """
    names = await shared.corrupt_within(superuser, *UNREAD, put_off)
    assert names[name_of(GenerationCompleted.subject)] in await found(superuser, MOMENT, "messages_are_consumed")


async def test_a_deletion_that_was_asked_for_again_was_asked_for_before(
    shared: PlatformHarness, superuser: AsyncConnection
) -> None:
    """Storage keeps the newest message of each generation."""
    await shared.corrupt_within(superuser, f"UPDATE storage.deletions SET message_id = '{new_id()}'")
    assert await found(superuser, AT_REST, "messages_are_consumed") == set()


async def test_what_billing_finds_wrong_with_its_ledger_the_auditor_finds_too(
    shared: PlatformHarness, superuser: AsyncConnection
) -> None:
    assert await conservation.find_violations(superuser) == []
    named = set()
    for case in LEDGER:
        async with superuser.begin_nested() as corrupted:
            await shared.corrupt_within(superuser, *case.sql)
            violations = await conservation.find_violations(superuser)
            named |= {violation.invariant for violation in violations}
            assert any([(await evaluate(superuser, one, AT_REST)).total for one in auditor_ledger.LEDGER])
            await corrupted.rollback()
    assert named == set(conservation.INVARIANTS), "nothing planted here breaks this one"


def test_the_inboxes_are_those_that_the_services_keep() -> None:
    kept = {
        "gateway": gateway_consumers.subscriptions(lambda _: None),
        "billing": billing_consumers.subscriptions(),
        "payments": payments_consumers.subscriptions(Mock(), Mock()),
        "generation": generation_consumers.subscriptions(Mock()),
        "storage": storage_consumers.subscriptions(Mock(), Mock(), Mock()),
        "auditor": auditor_consumers.SUBSCRIPTIONS,
    }
    assert {
        service: {one.message_type for one in subscriptions if one.inbox}
        for service, subscriptions in kept.items()
        if any(one.inbox for one in subscriptions)
    } == {service: set(messages) for service, messages in INBOXES.items()}


async def test_storage_writes_down_what_it_is_asked_where_that_is_looked_for(platform: PlatformHarness) -> None:
    engine = platform.database.engine("storage")
    intake = Intake(asyncio.Event())
    for one in storage_consumers.subscriptions(intake, intake, Mock()):
        example = (ROOT / "libs/contracts/examples" / f"{one.message_type.subject}.json").read_bytes()
        asked: Received[Any] = received(msgspec.json.decode(example, type=one.message_type))
        about = replace(asked, correlation_id=asked.payload.generation_id)
        async with Transactions(engine, "storage").begin() as tx:
            await one.handler(tx, [about])
        names = {"message_id": about.message_id, "correlation_id": about.correlation_id}
        message = "SELECT CAST(:message_id AS uuid) AS message_id, CAST(:correlation_id AS uuid) AS correlation_id"
        kept = f"SELECT FROM {WRITTEN_DOWN[one.message_type]}"
        trace = f"SELECT EXISTS (SELECT FROM ({message}) AS o WHERE EXISTS ({kept}))"
        async with engine.connect() as connection:
            assert await connection.scalar(text(trace), names), one.message_type


def test_payments_gives_an_event_as_many_tries_as_the_auditor_waits_for() -> None:
    assert MATCH_ATTEMPTS == provider_events.MATCH_ATTEMPTS


def test_the_auditor_knows_by_their_type_what_events_payments_could_not_read() -> None:
    assert UNREADABLE_EVENT == snapshots.UNREADABLE_EVENT
