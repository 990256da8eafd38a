"""Running the invariants: each is one query over all schemas, so on one snapshot, whatever is written meanwhile.

Each has a short transaction of its own. A snapshot for all of them would be held until the last query ends: that keeps
the services' vacuum from removing anything and their partitions from being maintained, and one failure would blind all.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from auditor.domain import Invariant, Report, Result, Violation
from auditor.invariants import INVARIANTS
from auditor.schemas import snapshot
from messaging.database import READ_ONLY, is_unavailable

LISTED_PER_INVARIANT: Final = 100
"""How many offenders of one kind are listed; all are counted."""
_AGAIN_SECONDS: Final = 0.5
STATEMENT_TIMEOUT_MS: Final = 300_000
"""One invariant may read a whole table; the engine for checks is made with this limit."""


async def check(engine: AsyncEngine, tolerance_seconds: float, invariants: Sequence[Invariant] = INVARIANTS) -> Report:
    """Evaluate ``invariants``. ``tolerance_seconds`` 0 is for a system that is at rest.

    An invariant whose query fails is a result, too. A database that is away is not: that is raised.
    """
    async with snapshot(engine) as connection:
        checked_at = await connection.scalar(text("SELECT now()"))
    assert checked_at is not None
    results = [await _checked(engine, invariant, tolerance_seconds) for invariant in invariants]
    return Report(checked_at=checked_at, tolerance_seconds=tolerance_seconds, results=tuple(results))


async def check_patiently(engine: AsyncEngine, tolerance_seconds: float, patience_seconds: float) -> Report:
    """Check until nothing is violated, for at most ``patience_seconds``; returns the last report."""
    deadline = time.monotonic() + patience_seconds
    while True:
        report = await check(engine, tolerance_seconds)
        if report.clean or time.monotonic() >= deadline:
            return report
        await asyncio.sleep(_AGAIN_SECONDS)


async def _checked(engine: AsyncEngine, invariant: Invariant, tolerance_seconds: float) -> Result:
    began = time.perf_counter()
    try:
        async with snapshot(engine) as connection:
            return await evaluate(connection, invariant, tolerance_seconds)
    except DBAPIError as error:
        # That a snapshot is read only is our own doing: whoever tries to write in it is at fault.
        if is_unavailable(error) and getattr(error.orig, "sqlstate", None) != READ_ONLY:
            raise
        reason = str(error.orig).splitlines()[0]
        return Result(invariant, 0, (), time.perf_counter() - began, failure=reason)


async def evaluate(connection: AsyncConnection, invariant: Invariant, tolerance_seconds: float) -> Result:
    """What breaks ``invariant`` in the eyes of ``connection``'s transaction."""
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
