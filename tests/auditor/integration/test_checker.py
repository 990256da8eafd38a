"""The continuous check: findings are opened, refreshed and resolved, and counted."""

import asyncio
import contextlib
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.checking import check, check_until_clean
from auditor.domain import Invariant
from auditor.loops.checker import Checker
from auditor.reports import render_report
from auditor.repository.findings import add_findings
from service_runtime.database import engine_for
from tests.auditor.pages import as_text
from tests.auditor.platform_harness import PlatformHarness
from tests.support.databases import Database
from tests.support.waiting import eventually

OVERDRAWN = "UPDATE billing.users SET reserved_credits = reserved_credits + {amount} WHERE user_id = '{{user}}'"
CODE = "held_reservations_are_backed"


@pytest.fixture
def checker(auditor: AsyncEngine) -> Checker:
    return Checker(auditor, auditor, tolerance_seconds=60.0)


async def findings(database: Database) -> list[dict[str, Any]]:
    query = text("SELECT * FROM auditor.findings WHERE code = :code ORDER BY finding_id")
    async with database.superuser_engine().connect() as connection:
        return [dict(row) for row in (await connection.execute(query, {"code": CODE})).mappings()]


def counted(code: str) -> float | None:
    return REGISTRY.get_sample_value("auditor_violations", {"invariant": code, "severity": "critical"})


async def test_a_violation_is_one_finding_until_it_is_gone(
    database: Database, platform: PlatformHarness, checker: Checker
) -> None:
    await checker.check_now()
    assert await findings(database) == []
    assert counted(CODE) == 0

    await platform.corrupt(OVERDRAWN.format(amount=5))
    await checker.check_now()
    (first,) = await findings(database)
    assert first["subject_key"] == str(platform.user)
    assert first["severity"] == "critical"
    assert first["expected"] == "9 credits reserved, held for 1 order(s)"
    assert first["found"] == "14 credits reserved"
    assert counted(CODE) == 1

    await platform.corrupt(OVERDRAWN.format(amount=1))
    await checker.check_now()
    (again,) = await findings(database)
    assert again["finding_id"] == first["finding_id"]
    assert again["found"] == "15 credits reserved"
    assert again["first_seen_at"] == first["first_seen_at"] < again["last_seen_at"]

    await platform.corrupt(OVERDRAWN.format(amount=-6))
    await checker.check_now()
    (gone,) = await findings(database)
    assert gone["resolved_at"] is not None
    assert counted(CODE) == 0

    await platform.corrupt(OVERDRAWN.format(amount=5))
    await checker.check_now()
    assert [finding["resolved_at"] is None for finding in await findings(database)] == [False, True]


async def test_an_id_that_breaks_an_invariant_twice_is_one_finding_that_says_both(
    database: Database, platform: PlatformHarness, checker: Checker
) -> None:
    await platform.corrupt(
        "UPDATE payments.credit_movements SET amount_credits = 7, ordered_at = now() - interval '1 day'"
        " WHERE payment_id = '{payment}'",
    )
    report = await checker.check_now()
    code = "payments_reach_the_ledger"
    assert [violation.subject for violation in report.violations if violation.code == code] == [
        str(platform.payment)
    ] * 2
    async with database.superuser_engine().connect() as connection:
        query = text("SELECT expected, found FROM auditor.findings WHERE code = :code")
        ((expected, found),) = (await connection.execute(query, {"code": code})).all()
    assert {one.partition(" for ")[0] for one in expected.split("; ")} == {
        "purchase of 7 credits",
        "bonus of 7 credits",
    }
    assert {one.partition(" for ")[0] for one in found.split("; ")} == {
        "purchase of 100 credits",
        "bonus of 10 credits",
    }


async def test_a_check_that_took_long_is_not_repeated_at_once(platform: PlatformHarness, checker: Checker) -> None:
    def checked_at() -> float:
        return REGISTRY.get_sample_value("auditor_last_check_timestamp_seconds") or 0.0

    await checker.run_round()
    first = checked_at()
    await checker.run_round()
    assert checked_at() == first


async def test_an_invariant_that_cannot_be_checked_hides_no_other_and_is_no_proof(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    checker = Checker(auditor, auditor, tolerance_seconds=0.0)
    await checker.check_now()
    before = REGISTRY.get_sample_value("auditor_last_check_timestamp_seconds")
    await platform.corrupt(OVERDRAWN.format(amount=5), "ALTER TABLE storage.assets RENAME COLUMN asset_id TO id")
    report = await checker.check_now()
    assert [finding["resolved_at"] for finding in await findings(database)] == [None]
    assert counted(CODE) == 1
    unproven = {result.invariant.code for result in report.unproven}
    assert "completed_generations_have_an_asset" in unproven
    assert CODE not in unproven
    for code, expected in ((CODE, 0.0), ("completed_generations_have_an_asset", 1.0)):
        assert REGISTRY.get_sample_value("auditor_invariant_unproven", {"invariant": code}) == expected
    assert REGISTRY.get_sample_value("auditor_last_check_timestamp_seconds") == before
    await platform.corrupt(OVERDRAWN.format(amount=-5))
    assert not (await check_until_clean(auditor, 0.0, patience_seconds=0)).clean
    assert "NOT CHECKED" in as_text(render_report(report))


async def test_a_finding_of_an_invariant_that_cannot_be_checked_any_more_stays_open(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    checker = Checker(auditor, auditor, tolerance_seconds=0.0)
    await platform.corrupt(OVERDRAWN.format(amount=5))
    await checker.check_now()
    await platform.corrupt(
        OVERDRAWN.format(amount=-5),
        "ALTER TABLE billing.reservations RENAME COLUMN amount_credits TO amount",
    )
    await checker.check_now()
    assert [finding["resolved_at"] for finding in await findings(database)] == [None]
    assert counted(CODE) == 1


async def test_a_query_that_takes_too_long_is_the_result_of_one_invariant(
    database: Database, platform: PlatformHarness
) -> None:
    impatient = engine_for(database.dsn("auditor"), application_name="test", statement_timeout_ms=300)
    queries = {"slow": "SELECT pg_sleep(60)::text", "sound": "SELECT '' WHERE false", "broken": "SELECT 'it'"}
    invariants = [
        Invariant(
            code=code,
            severity="critical",
            meaning="",
            query=f"SELECT subject, '' AS expected, '' AS found FROM ({query}) AS t (subject)",
        )
        for code, query in queries.items()
    ]
    report = await check(impatient, 0.0, invariants)
    await impatient.dispose()
    slow, sound, broken = report.results
    assert "statement timeout" in (slow.failure or "")
    assert (sound.failure, sound.total) == (None, 0)
    assert (broken.failure, broken.total) == (None, 1)
    assert report.complete_codes == ("sound", "broken")


async def test_a_database_that_goes_away_ends_the_check_and_is_no_verdict(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    waiting = Invariant(
        code="waiting",
        severity="critical",
        meaning="",
        query="SELECT pg_advisory_xact_lock(42)::text AS subject, '' AS expected, '' AS found",
    )
    end = text("SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE objid = 42 AND NOT granted")
    async with database.superuser_engine().connect() as holder:
        await holder.execute(text("SELECT pg_advisory_lock(42)"))
        checking = asyncio.create_task(check(auditor, 0.0, [waiting]))

        async def ended() -> bool:
            return bool(await holder.scalar(end))

        await eventually(ended)
        with pytest.raises(DBAPIError):
            await checking


async def test_a_check_that_is_cut_off_is_not_repeated_at_once_either(
    platform: PlatformHarness, auditor: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = 0

    async def endless(*_: object) -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    monkeypatch.setattr("auditor.proving.Prover.prove", endless)
    checker = Checker(auditor, auditor, tolerance_seconds=0.0)
    for _ in range(2):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await checker.run_round()
    assert begun == 1


async def test_a_check_locks_no_table_that_it_has_read(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    invariants = [
        Invariant(code=code, severity="critical", meaning="", query=query)
        for code, query in (
            ("users", "SELECT user_id::text AS subject, '' AS expected, '' AS found FROM billing.users"),
            ("pause", "SELECT pg_advisory_xact_lock(42)::text AS subject, '' AS expected, '' AS found"),
        )
    ]
    superuser = database.superuser_engine()

    async def waiting() -> bool:
        async with superuser.connect() as connection:
            return bool(await connection.scalar(text("SELECT true FROM pg_locks WHERE objid = 42 AND NOT granted")))

    async with superuser.connect() as holder:
        await holder.execute(text("SELECT pg_advisory_lock(42)"))
        checking = asyncio.create_task(check(auditor, 0.0, invariants))
        await eventually(waiting)
        async with superuser.begin() as maintenance:
            await maintenance.execute(text("LOCK TABLE billing.users IN ACCESS EXCLUSIVE MODE NOWAIT"))
        await holder.execute(text("SELECT pg_advisory_unlock(42)"))
        assert len((await checking).results) == 2


async def test_an_older_check_does_not_resolve_what_a_newer_one_found(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    older = await check(auditor, 0.0)
    await platform.corrupt(OVERDRAWN.format(amount=5))
    await Checker(auditor, auditor, tolerance_seconds=0.0).check_now()
    async with auditor.begin() as connection:
        await add_findings(connection, older.violations, older.complete_codes, older.checked_at)
    assert [finding["resolved_at"] for finding in await findings(database)] == [None]


async def test_patience_gives_the_last_messages_time_to_arrive(
    database: Database, platform: PlatformHarness, auditor: AsyncEngine
) -> None:
    await platform.corrupt(OVERDRAWN.format(amount=5))
    assert (await check_until_clean(auditor, 0.0, patience_seconds=0)).total > 0
    patient = asyncio.create_task(check_until_clean(auditor, 0.0, patience_seconds=60))
    await platform.corrupt(OVERDRAWN.format(amount=-5))
    assert (await patient).total == 0


async def test_a_check_writes_nothing(platform: PlatformHarness, auditor: AsyncEngine) -> None:
    writing = Invariant(
        code="writing",
        severity="critical",
        meaning="",
        query="SELECT '' AS subject, '' AS expected, '' AS found FROM auditor.findings FOR UPDATE",
    )
    [result] = (await check(auditor, 0.0, [writing])).results
    assert "read-only transaction" in (result.failure or "")


async def test_a_flood_of_violations_is_counted_in_full_and_listed_in_part(
    database: Database, platform: PlatformHarness, checker: Checker
) -> None:
    await platform.corrupt(
        """
        INSERT INTO billing.users (user_id, reserved_credits, opened_at)
        SELECT gen_random_uuid(), 5, now() FROM generate_series(1, 300)
        """,
    )
    report = await checker.check_now()
    (result,) = [result for result in report.results if result.invariant.code == CODE]
    assert result.total == 300
    assert len(result.violations) == len(await findings(database)) == 100
    assert counted(CODE) == 300
    assert CODE not in report.complete_codes
