"""What `show`, a round of the proof and a portion of a pass read does not depend on how long the history is."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.dossier import read_dossier, reading
from auditor.invariants import INVARIANTS
from auditor.invariants.deadlines import DEADLINES
from auditor.proving import Prover
from benchmarks.multiplied_history import count_as_new, multiply
from contracts.message import SERVICES
from tests.auditor.platform_harness import PlatformHarness, build_platform
from tests.support.databases import Database, MakeDatabase
from tests.support.plans import PlanHarness

SHORT, MIDDLE, LONG = 5, 30, 150
"""Copies of a small platform."""
DAYS: Final = 2
MORE: Final = 4.5
"""Indexes grow a level or two, and small tables are read whole. What reads history grows 5 or 25 times."""
FEW_PAGES: Final = 2
LISTED_PAGES: Final = 75
"""The newest orders and payments of a user are looked up one by one, or a table of so many pages is read whole."""
LOOKED_AT_IN_VAIN: Final = 100
"""Rows. The user of all copies has several hundred orders in the long history."""
AT_REST: Final = 0.0
ENOUGH_SECONDS: Final = 60.0
ORDERS: Final = 7
"""In each copy. Some of them are open, so the deadlines of their copies have passed long ago."""
CLOSED: Final = tuple(one for one in INVARIANTS if one not in DEADLINES)
PAGES_AN_ORDER: Final = 20
"""In a pass. It was 60 when each invariant looked each order up in each table."""
FORGET_STATISTICS: Final = text("""
    SELECT count(pg_clear_relation_stats(n.nspname, c.relname))
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'i') AND n.nspname = ANY(:schemas)
""")

Pages = list[tuple[str, int]]


async def pages_of_each_statement(engine: AsyncEngine, call: Callable[[], Awaitable[object]]) -> Pages:
    async with engine.connect() as connection:
        plans = PlanHarness(engine, connection)
        explained = await plans.explain(lambda _: call())
    return [(" ".join(one.sql.split()), one.buffers) for one in explained]


async def pages_of_show(database: Database, platform: PlatformHarness, name: str) -> Pages:
    engine = database.engine("auditor")
    return await pages_of_each_statement(engine, lambda: read_dossier(engine, str(getattr(platform, name))))


async def pages_of_round(database: Database) -> Pages:
    """The orders that were not multiplied are new, and all others are proven."""
    engine = database.engine("auditor")
    for _ in range(2):
        assert (await Prover(engine, engine, AT_REST, ENOUGH_SECONDS, CLOSED).prove()).report.clean
    await count_as_new(engine, ORDERS)
    return await pages_of_each_statement(engine, Prover(engine, engine, AT_REST, 0, CLOSED).prove)


async def history(make_database: MakeDatabase, copies: int) -> tuple[Database, PlatformHarness]:
    database = await make_database(*SERVICES)
    platform = await build_platform(database)
    await multiply(database.superuser_engine(), copies, platform.user, DAYS)
    return database, platform


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


async def looked_at_in_vain(database: Database, platform: PlatformHarness) -> dict[str, float]:
    """Requests for orders that `show` of the user of all copies finds by an index and leaves out."""
    engine = database.engine("auditor")
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SET enable_seqscan = off")
        explained = await PlanHarness(engine, connection).explain(lambda _: read_dossier(engine, str(platform.user)))
    return {
        node["Index Name"]: node["Rows Removed by Filter"]
        for one in explained
        for node in nodes(one.plan)
        if node.get("Relation Name") == "generation_requests"
        and node.get("Rows Removed by Filter", 0) > LOOKED_AT_IN_VAIN
    }


def grown(before: Pages, after: Pages, few_pages: int = FEW_PAGES) -> dict[str, tuple[int, int]]:
    """The statements that read much more than before."""
    assert [sql for sql, _ in before] == [sql for sql, _ in after]
    return {
        sql: (less, more)
        for (sql, less), (_, more) in zip(before, after, strict=True)
        if more > MORE * less + few_pages
    }


async def test_show_and_a_round_are_flat_with_the_history(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, few = await history(make_database, SHORT)
    middle, some = await history(make_database, MIDDLE)
    long, many = await history(make_database, LONG)
    for name in ("delivered_to_debtor", "debtor"):
        assert not grown(await pages_of_show(short, few, name), await pages_of_show(long, many, name)), name
    # The user of all copies has more than is counted, in either history.
    monkeypatch.setattr(reading, "NEWEST_ORDERS", 5)
    monkeypatch.setattr(reading, "COUNTED", 20)
    listed = await pages_of_show(middle, some, "user")
    assert not grown(listed, await pages_of_show(long, many, "user"), LISTED_PAGES)
    assert not await looked_at_in_vain(long, many)
    before = await pages_of_round(middle)
    assert not grown(before, await pages_of_round(long))
    async with long.superuser_engine().begin() as connection:
        await connection.execute(FORGET_STATISTICS, {"schemas": list(SERVICES)})
    assert not grown(before, await pages_of_round(long))


async def test_a_pass_reads_the_rows_of_its_orders_once(make_database: MakeDatabase) -> None:
    database, _ = await history(make_database, MIDDLE)
    engine = database.engine("auditor")
    orders = (MIDDLE + 1) * ORDERS
    for forgets in (False, True):
        if forgets:
            async with database.superuser_engine().begin() as connection:
                await connection.execute(FORGET_STATISTICS, {"schemas": list(SERVICES)})
        async with engine.connect() as connection:
            plans = PlanHarness(engine, connection)
            explained = await plans.explain(lambda _: Prover(engine, engine, AT_REST, ENOUGH_SECONDS, CLOSED).prove())
        portions = [one for one in explained if one.sql.startswith("WITH rows_of_billing_refusals")]
        assert portions
        assert sum(one.buffers for one in portions) <= PAGES_AN_ORDER * orders
        # They have no index: to look for each order among all of them would take as long as the portion is large.
        read = [node for one in portions for node in nodes(one.plan) if node["Node Type"] == "CTE Scan"]
        assert max(node["Actual Loops"] for node in read) == 1
