"""Runs the invariants. Each is one query over all schemas, so it sees one snapshot, whatever is written meanwhile.

Each has a short transaction of its own. A snapshot for all of them would be open until the last query ends: it would
keep the services' vacuum from removing anything and their partitions from being maintained, and one failure would stop
all checks.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from auditor.domain import Invariant, Report, Result, Violation
from auditor.invariants import INVARIANTS
from auditor.schemas import snapshot
from messaging.database import READ_ONLY, STATEMENT_TIMEOUT, is_unavailable
from service_runtime.database import engine_for

LISTED_PER_INVARIANT: Final = 100
"""How many offenders of one kind are listed; all are counted."""
_PAUSE_SECONDS: Final = 0.5
STATEMENT_TIMEOUT_MS: Final = 300_000
"""One invariant may read a whole table."""


def reading_engine(dsn: str) -> AsyncEngine:
    """An engine for queries that may take long."""
    return engine_for(
        dsn, application_name="reelhouse-auditor-check", pool_size=2, statement_timeout_ms=STATEMENT_TIMEOUT_MS
    )


class _Offender(NamedTuple):
    subject: str
    expected: str
    found: str
    total: int


async def check(engine: AsyncEngine, tolerance_seconds: float, invariants: Sequence[Invariant] = INVARIANTS) -> Report:
    """Evaluate ``invariants``. ``tolerance_seconds`` 0 is for a system that is at rest.

    An invariant whose query fails has a result, too: it says why. An unavailable database has none: that is raised.
    """
    async with snapshot(engine) as connection:
        checked_at = await connection.scalar(text("SELECT now()"))
    assert checked_at is not None
    results = [await _check_one(engine, invariant, tolerance_seconds) for invariant in invariants]
    return Report(checked_at=checked_at, tolerance_seconds=tolerance_seconds, results=tuple(results))


async def check_until_clean(engine: AsyncEngine, tolerance_seconds: float, patience_seconds: float) -> Report:
    """Check until nothing is violated, for at most ``patience_seconds``; returns the last report."""
    deadline = time.monotonic() + patience_seconds
    while True:
        report = await check(engine, tolerance_seconds)
        if report.clean or time.monotonic() >= deadline:
            return report
        await asyncio.sleep(_PAUSE_SECONDS)


async def _check_one(engine: AsyncEngine, invariant: Invariant, tolerance_seconds: float) -> Result:
    began = time.perf_counter()
    try:
        async with snapshot(engine) as connection:
            return await evaluate(connection, invariant, tolerance_seconds)
    except DBAPIError as error:
        # The snapshot is read only, and ends each query in time, because we made it so: a query that writes in it, or
        # takes longer, is wrong, not unavailable.
        if is_unavailable(error) and getattr(error.orig, "sqlstate", None) not in (READ_ONLY, STATEMENT_TIMEOUT):
            raise
        reason = str(error.orig).splitlines()[0]
        return Result(invariant, 0, (), time.perf_counter() - began, failure=reason)


async def evaluate(connection: AsyncConnection, invariant: Invariant, tolerance_seconds: float) -> Result:
    """The rows that break ``invariant``, as the transaction of ``connection`` sees them."""
    query = text(
        f"SELECT subject, expected, found, count(*) OVER () FROM ({invariant.query}) AS offender"  # noqa: S608
        f" ORDER BY subject LIMIT {LISTED_PER_INVARIANT}"
    )
    began = time.perf_counter()
    rows = await connection.execute(query, {"tolerance": tolerance_seconds})
    offenders = [_Offender(*row) for row in rows]
    return Result(
        invariant=invariant,
        total=offenders[0].total if offenders else 0,
        violations=tuple(
            Violation(invariant.code, invariant.severity, one.subject, one.expected, one.found) for one in offenders
        ),
        seconds=time.perf_counter() - began,
    )
