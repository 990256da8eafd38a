"""Runs the invariants. Each is one query over all schemas, so it sees one snapshot, whatever is written meanwhile.

``check`` reads all history: it is the reference. ``check_together`` asks the same of some ids or of a range of ids.

In ``check`` each has a short transaction of its own. A snapshot for all of them would be open until the last query
ends: it would keep the services' vacuum from removing anything and their partitions from being maintained, and one
failure would stop all checks.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from auditor.domain import Invariant, Report, Result, Violation
from auditor.invariants import INVARIANTS
from auditor.portions import Portion, parameters_of, query_of, rows_read_once
from auditor.schemas import snapshot
from messaging.database import STATEMENT_TIMEOUT, is_unavailable
from service_runtime.database import READ_ONLY, engine_for, sqlstate

LISTED_PER_INVARIANT: Final = 100
"""How many offenders of one kind are listed; all are counted."""
_PAUSE_SECONDS: Final = 0.5
LISTED_PER_PORTION: Final = 1000
STATEMENT_TIMEOUT_MS: Final = 300_000
"""One invariant may read a whole table."""

# The server is told of a portion, and of what is open, what it cannot know in advance: it is little. So it walks along
# indexes, whatever the statistics say of the tables at that time.
_WALK: Final = text(
    "SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('enable_seqscan', 'off', true),"
    " set_config('enable_nestloop', 'on', true), set_config('jit', 'off', true)"
)
# The rows of a portion that were read once have no index, and the server's guess of their number is often one: it would
# search all of them for each row. What they are joined with beyond the portion says ONE_BY_ONE().
_JOIN_BY_HASH: Final = text("SELECT set_config('enable_nestloop', 'off', true)")


def reading_engine(dsn: str) -> AsyncEngine:
    """An engine for queries that may take long."""
    return engine_for(
        dsn, application_name="reelhouse-auditor-check", pool_size=2, statement_timeout_ms=STATEMENT_TIMEOUT_MS
    )


class _Offender(NamedTuple):
    code: str
    subject: str
    expected: str
    found: str
    key: str | None
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


async def check_together(
    engine: AsyncEngine, invariants: Sequence[Invariant], tolerance_seconds: float, portion: Portion | None
) -> Sequence[Result]:
    """The rows that break ``invariants``, of a portion or of all that is open: they read little, so one statement does.

    If one of them fails, each is evaluated apart, and it fails as in ``check``. Each took an equal share of the time.
    """
    if not invariants:
        return []
    rows = rows_read_once(invariants, portion)
    query = text(rows + " UNION ALL ".join(f"({_offenders(one, portion)})" for one in invariants))
    began = time.perf_counter()
    try:
        async with snapshot(engine) as connection:
            await walk_along_indexes(connection)
            if rows:
                await connection.execute(_JOIN_BY_HASH)
            offenders = await connection.execute(query, {"tolerance": tolerance_seconds, **parameters_of(portion)})
    except DBAPIError:
        return [await _check_one(engine, invariant, tolerance_seconds, portion) for invariant in invariants]
    found: dict[str, list[_Offender]] = defaultdict(list)
    for row in offenders:
        offender = _Offender(*row)
        found[offender.code].append(offender)
    seconds = (time.perf_counter() - began) / len(invariants)
    return [_result(invariant, found[invariant.code], seconds) for invariant in invariants]


async def _check_one(
    engine: AsyncEngine, invariant: Invariant, tolerance_seconds: float, portion: Portion | None = None
) -> Result:
    began = time.perf_counter()
    try:
        async with snapshot(engine) as connection:
            if portion is not None:
                await walk_along_indexes(connection)
            return await evaluate(connection, invariant, tolerance_seconds, portion)
    except DBAPIError as error:
        # The snapshot is read only, and ends each query in time, because we made it so: a query that writes in it, or
        # takes longer, is wrong, not unavailable.
        if is_unavailable(error) and sqlstate(error) not in (READ_ONLY, STATEMENT_TIMEOUT):
            raise
        reason = str(error.orig).splitlines()[0]
        return Result(invariant, 0, (), time.perf_counter() - began, failure=reason)


async def walk_along_indexes(connection: AsyncConnection) -> None:
    """Plan the following statements of this transaction for few rows, along indexes."""
    await connection.execute(_WALK)


async def evaluate(
    connection: AsyncConnection, invariant: Invariant, tolerance_seconds: float, portion: Portion | None = None
) -> Result:
    """The rows that break ``invariant``, all or those of ``portion``, as this transaction sees them."""
    query = text(rows_read_once([invariant], portion) + _offenders(invariant, portion))
    began = time.perf_counter()
    rows = await connection.execute(query, {"tolerance": tolerance_seconds, **parameters_of(portion)})
    return _result(invariant, [_Offender(*row) for row in rows], time.perf_counter() - began)


def _offenders(invariant: Invariant, portion: Portion | None) -> str:
    """The first rows that break ``invariant``, and how many there are."""
    key = "key" if invariant.is_keyed else "NULL"
    limit = LISTED_PER_INVARIANT if portion is None else LISTED_PER_PORTION
    return (
        f"SELECT '{invariant.code}', subject, expected, found, {key}, count(*) OVER ()"  # noqa: S608
        f" FROM ({query_of(invariant, portion)}) AS offender ORDER BY subject LIMIT {limit}"
    )


def _result(invariant: Invariant, offenders: Sequence[_Offender], seconds: float) -> Result:
    return Result(
        invariant=invariant,
        total=offenders[0].total if offenders else 0,
        violations=tuple(
            Violation(invariant.code, invariant.severity, one.subject, one.expected, one.found, one.key)
            for one in offenders
        ),
        seconds=seconds,
    )
