"""The continuous check: findings are opened, refreshed and resolved, and counted."""

import asyncio

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from auditor.checker import Checker
from auditor.checking import check, check_patiently
from auditor.domain import Invariant
from tests.auditor.world import damage
from tests.support.waiting import eventually

OVERDRAWN = "UPDATE billing.users SET reserved_credits = reserved_credits + {amount} WHERE user_id = '{{user}}'"
CODE = "held_reservations_are_backed"


@pytest.fixture
def checker(auditor) -> Checker:
    return Checker(auditor, auditor, tolerance_seconds=60.0)


async def findings(database) -> list[dict]:
    query = text("SELECT * FROM auditor.findings WHERE code = :code ORDER BY finding_id")
    async with database.superuser_engine().connect() as connection:
        return [dict(row) for row in (await connection.execute(query, {"code": CODE})).mappings()]


def counted(code: str) -> float | None:
    return REGISTRY.get_sample_value("auditor_violations", {"invariant": code, "severity": "critical"})


async def test_a_violation_is_one_finding_however_often_it_is_seen_and_is_resolved_when_it_is_gone(
    database, world, checker
) -> None:
    await checker.check_now()
    assert await findings(database) == []
    assert counted(CODE) == 0

    await damage(database, world, OVERDRAWN.format(amount=5))
    await checker.check_now()
    (first,) = await findings(database)
    assert first["subject_key"] == str(world.user)
    assert first["severity"] == "critical"
    assert first["expected"] == "9 credits reserved, held for 1 order(s)"
    assert first["found"] == "14 credits reserved"
    assert counted(CODE) == 1

    await damage(database, world, OVERDRAWN.format(amount=1))
    await checker.check_now()
    (again,) = await findings(database)
    assert again["finding_id"] == first["finding_id"]
    assert again["found"] == "15 credits reserved"
    assert again["first_seen_at"] == first["first_seen_at"] < again["last_seen_at"]

    await damage(database, world, OVERDRAWN.format(amount=-6))
    await checker.check_now()
    (gone,) = await findings(database)
    assert gone["resolved_at"] is not None
    assert counted(CODE) == 0

    await damage(database, world, OVERDRAWN.format(amount=5))
    await checker.check_now()
    assert [finding["resolved_at"] is None for finding in await findings(database)] == [False, True]


async def test_an_id_that_breaks_an_invariant_twice_is_one_finding_that_says_both(database, world, checker) -> None:
    await damage(
        database,
        world,
        "UPDATE payments.credit_movements SET amount_credits = 7, ordered_at = now() - interval '1 day'",
    )
    report = await checker.check_now()
    code = "payments_reach_the_ledger"
    assert [violation.subject for violation in report.violations if violation.code == code] == [str(world.payment)] * 2
    async with database.superuser_engine().connect() as connection:
        query = text("SELECT expected, found FROM auditor.findings WHERE code = :code")
        ((expected, found),) = (await connection.execute(query, {"code": code})).all()
    assert {"purchase of 7 credits", "bonus of 7 credits"} == set(expected.split("; "))
    assert {"100 credits", "10 credits"} == set(found.split("; "))


async def test_a_check_that_took_long_is_not_repeated_at_once(world, checker) -> None:
    def checked_at() -> float:
        return REGISTRY.get_sample_value("auditor_last_check_timestamp_seconds") or 0.0

    await checker.run_round()
    first = checked_at()
    await checker.run_round()
    assert checked_at() == first


async def test_a_check_sees_one_moment_whatever_is_written_meanwhile(database, world, auditor) -> None:
    total = "SELECT sum(available_credits)::text AS subject, '' AS expected, '' AS found FROM billing.users"
    pause = "SELECT pg_advisory_xact_lock(42)::text AS subject, '' AS expected, '' AS found"
    invariants = [
        Invariant(code=code, severity="critical", meaning="", query=query)
        for code, query in (("before", total), ("pause", pause), ("after", total))
    ]
    superuser = database.superuser_engine()

    async def waiting() -> bool:
        async with superuser.connect() as connection:
            return bool(await connection.scalar(text("SELECT true FROM pg_locks WHERE objid = 42 AND NOT granted")))

    async with superuser.connect() as holder:
        await holder.execute(text("SELECT pg_advisory_lock(42)"))
        checking = asyncio.create_task(check(auditor, 0.0, invariants))
        await eventually(waiting)
        await damage(database, world, "UPDATE billing.users SET available_credits = available_credits + 1000")
        await holder.execute(text("SELECT pg_advisory_unlock(42)"))
        seen = {violation.code: violation.subject for violation in (await checking).violations}
    assert seen["before"] == seen["after"]


async def test_patience_gives_the_last_messages_time_to_arrive(database, world, auditor) -> None:
    await damage(database, world, OVERDRAWN.format(amount=5))
    assert (await check_patiently(auditor, 0.0, patience_seconds=0)).total > 0
    patient = asyncio.create_task(check_patiently(auditor, 0.0, patience_seconds=60))
    await damage(database, world, OVERDRAWN.format(amount=-5))
    assert (await patient).total == 0


async def test_a_check_writes_nothing(world, auditor) -> None:
    writing = Invariant(
        code="writing",
        severity="critical",
        meaning="",
        query="SELECT nextval('billing.balance_ledger_posting_id_seq')::text AS subject, '' AS expected, '' AS found",
    )
    with pytest.raises(DBAPIError):
        await check(auditor, 0.0, [writing])


async def test_a_flood_of_violations_is_counted_in_full_and_listed_in_part(database, world, checker) -> None:
    await damage(
        database,
        world,
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
