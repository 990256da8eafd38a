"""What `show` reads of one order, or of one user with few orders, does not depend on how long the history is."""

from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.dossier import read_dossier
from benchmarks.multiplied_history import multiply
from contracts.message import SERVICES
from tests.auditor.platform_harness import PlatformHarness, build_platform
from tests.support.databases import Database, MakeDatabase
from tests.support.plans import PlanHarness

SHORT, LONG = 5, 150
"""Copies of a platform with seven orders."""
DAYS: Final = 2
MORE: Final = 3.5
"""Indexes grow a level or two, and small tables are read whole. What reads history grows 25 times or more."""
FEW_PAGES: Final = 2


async def pages_of_each_statement(
    database: Database, platform: PlatformHarness, subject: UUID
) -> list[tuple[str, int]]:
    engine: AsyncEngine = database.engine("auditor")
    async with engine.connect() as connection:
        plans = PlanHarness(engine, connection)
        explained = await plans.explain(lambda _: read_dossier(engine, str(subject)))
    return [(" ".join(one.sql.split()), one.buffers) for one in explained]


async def history(make_database: MakeDatabase, copies: int) -> tuple[Database, PlatformHarness]:
    database = await make_database(*SERVICES)
    platform = await build_platform(database)
    await multiply(database.superuser_engine(), copies, platform.user, DAYS)
    return database, platform


async def test_every_statement_of_show_is_flat_with_the_history(make_database: MakeDatabase) -> None:
    short, few = await history(make_database, SHORT)
    long, many = await history(make_database, LONG)
    for name in ("delivered_to_debtor", "debtor"):
        before = await pages_of_each_statement(short, few, getattr(few, name))
        after = await pages_of_each_statement(long, many, getattr(many, name))
        assert [sql for sql, _ in before] == [sql for sql, _ in after]
        grown = {
            sql: (less, more)
            for (sql, less), (_, more) in zip(before, after, strict=True)
            if more > MORE * less + FEW_PAGES
        }
        assert not grown, name
