"""Running the invariants: one snapshot over all schemas, read only, whatever is written meanwhile."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from auditor.domain import Invariant, Report, Result, Violation
from auditor.invariants import INVARIANTS

LISTED_PER_INVARIANT: Final = 100
"""How many offenders of one kind are listed; all are counted."""
_AGAIN_SECONDS: Final = 0.5
STATEMENT_TIMEOUT_MS: Final = 300_000
"""An invariant may read a whole table; the engine for checks is made with this limit."""


async def check(engine: AsyncEngine, tolerance_seconds: float, invariants: Sequence[Invariant] = INVARIANTS) -> Report:
    """Evaluate ``invariants`` on one snapshot. ``tolerance_seconds`` 0 is for a system that is at rest."""
    async with engine.connect() as connection:
        snapshot = await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        async with snapshot.begin():
            return await evaluate(snapshot, tolerance_seconds, invariants)


async def check_patiently(engine: AsyncEngine, tolerance_seconds: float, patience_seconds: float) -> Report:
    """Check until nothing is violated, for at most ``patience_seconds``; returns the last report."""
    deadline = time.monotonic() + patience_seconds
    while True:
        report = await check(engine, tolerance_seconds)
        if report.total == 0 or time.monotonic() >= deadline:
            return report
        await asyncio.sleep(_AGAIN_SECONDS)


async def evaluate(
    connection: AsyncConnection, tolerance_seconds: float, invariants: Sequence[Invariant] = INVARIANTS
) -> Report:
    """Evaluate ``invariants`` in the transaction of ``connection``, which makes them one moment or not."""
    checked_at = await connection.scalar(text("SELECT now()"))
    assert checked_at is not None
    results = [await _result(connection, invariant, tolerance_seconds) for invariant in invariants]
    return Report(checked_at=checked_at, tolerance_seconds=tolerance_seconds, results=tuple(results))


async def _result(connection: AsyncConnection, invariant: Invariant, tolerance_seconds: float) -> Result:
    query = text(
        f"SELECT subject, expected, found, count(*) OVER () FROM ({invariant.query}) AS offender"  # noqa: S608
        f" ORDER BY subject LIMIT {LISTED_PER_INVARIANT}"
    )
    began = time.perf_counter()
    rows = (await connection.execute(query, {"tolerance": tolerance_seconds})).all()
    return Result(
        invariant=invariant,
        total=rows[0][3] if rows else 0,
        violations=tuple(Violation(invariant.code, invariant.severity, *row[:3]) for row in rows),
        seconds=time.perf_counter() - began,
    )
