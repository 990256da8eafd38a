"""What the services of a running platform sent to PostgreSQL, and how the server will always execute it.

The server writes each statement into its log. Later, without services, the history is multiplied, and each statement is
planned with the statistics of several times: services keep a plan for as long as a connection lasts (decision 0008).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.multiplied_history import multiply
from benchmarks.order_cost import log_statements
from contracts.message import SERVICES
from local_platform.description import PlatformDescription
from local_platform.supervisor import Supervisor
from service_runtime.database import engine_for
from tests.support.plans import generic_plan

COPIES: Final = 400
LARGE_PAGES: Final = 60
"""A table of fewer pages is read whole by any plan: it does not grow with the orders, or has not grown here."""

Statistics = Literal["history", "empty", "never"]
"""When the tables were analysed: just now, with a history and no open order, before there was anything, or never."""

_LARGE_TABLES: Final = text("""
    SELECT relname FROM pg_class
    WHERE relkind = 'r' AND relpages > :pages AND relnamespace::regnamespace::text = ANY (:schemas)
""")
_FORGET_COLUMNS: Final = text("""
    DELETE FROM pg_statistic USING pg_class
    WHERE starelid = pg_class.oid AND relnamespace::regnamespace::text = ANY (:schemas)
""")
_FORGET_SIZES: Final = text("""
    SELECT pg_restore_relation_stats(
        'schemaname', relnamespace::regnamespace::text, 'relname', relname::text, 'relpages', 0,
        'reltuples', CAST(:tuples AS real))
    FROM pg_class WHERE relkind IN ('r', 'i') AND relnamespace::regnamespace::text = ANY (:schemas)
""")

_SENT: Final = re.compile(r"^\S+ \S+ \w+ \[\d+\] (\w+)@\w+ LOG:  execute [^:]+: (.*)$")


@dataclass(frozen=True, slots=True)
class Scan:
    """A statement whose plan reads a large table from one end to the other."""

    service: str
    statistics: Statistics
    table: str
    sql: str


async def scans_of(supervisor: Supervisor, platform: PlatformDescription, user_id: UUID) -> list[Scan]:
    """End the services; plan what they sent on a long history. Returns what reads a large table whole."""
    await log_statements(platform, "none")
    for service in SERVICES:
        await supervisor.end(service)
    log = (supervisor.log_directory / "postgres.log").read_text(errors="replace")
    sent = sorted({(service, sql) for service, sql in _statements(log) if service in SERVICES})
    assert {service for service, _ in sent} == set(SERVICES)
    engine = engine_for(platform.postgres.superuser_dsn, application_name="plans", pool_size=4, statement_timeout_ms=0)
    try:
        await multiply(engine, COPIES, user_id)
        async with engine.connect() as connection:
            values = {"pages": LARGE_PAGES, "schemas": list(SERVICES)}
            large = set((await connection.execute(_LARGE_TABLES, values)).scalars())
            found: list[Scan] = []
            for statistics in get_args(Statistics):
                await _forget(connection, statistics)
                for service, sql in sent:
                    plan = await generic_plan(connection, sql)
                    found += [Scan(service, statistics, table, sql) for table in _scanned(plan, large)]
            return found
    finally:
        await engine.dispose()


def _statements(log: str) -> Iterator[tuple[str, str]]:
    """Each prepared statement that was executed, with its role. The lines after the first begin with a tab."""
    role, lines = "", list[str]()
    for line in log.splitlines():
        if line.startswith("\t"):
            lines.append(line.strip())
            continue
        if lines:
            yield role, "\n".join(lines)
        match = _SENT.match(line)
        role, lines = (match[1], [match[2]]) if match else ("", [])


async def _forget(connection: AsyncConnection, statistics: Statistics) -> None:
    """Have the planner know of our tables what it knew at that time. This is never committed."""
    if statistics == "history":
        return
    values = {"schemas": list(SERVICES), "tuples": 0.0 if statistics == "empty" else -1.0}
    await connection.execute(_FORGET_COLUMNS, values)
    await connection.execute(_FORGET_SIZES, values)


def _scanned(node: Mapping[str, Any], large: set[str]) -> Iterator[str]:
    """The large tables that this part of a plan reads whole."""
    if node["Node Type"] == "Seq Scan" and node["Relation Name"] in large:
        yield node["Relation Name"]
    for child in node.get("Plans", ()):
        yield from _scanned(child, large)
