"""Whatever happens, in whatever order: the rounds of the service name what the check of all history names.

Every run of the tests tries the same few histories; with ``--hypothesis-profile=campaign`` many new ones.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.checking import check
from auditor.proving import Prover
from billing import handlers
from contracts.message import SERVICES
from messaging.ids import new_id
from service_runtime.database import engine_for
from tests.auditor.planted_violations import PLANTED_VIOLATIONS
from tests.auditor.platform_harness import PlatformHarness, build_platform
from tests.billing.ledger_harness import LedgerHarness, failed, order, received
from tests.support.databases import DatabaseFactory

PLANTED = [case for case in PLANTED_VIOLATIONS if not any("ALTER TABLE" in sql for sql in case.sql)]
AT_REST = 0.0
ENOUGH_SECONDS = 60.0
OPEN = text("SELECT code, subject_key FROM auditor.findings WHERE resolved_at IS NULL")


class HistoryHarness:
    """One platform, to which things happen."""

    def __init__(self, platform: PlatformHarness, engine: AsyncEngine) -> None:
        self._platform = platform
        self._engine = engine
        self._ledger = LedgerHarness(platform.database.engine("billing"))

    async def plant(self, number: int) -> None:
        """A violation. One that cannot be planted a second time is there already."""
        try:
            await self._platform.corrupt(*PLANTED[number].sql)
        except IntegrityError:
            return

    async def orders_at_once(self, number: int) -> None:
        """Two users order, and one order fails."""
        users = (self._platform.other_user, self._platform.buyer)
        placed = await asyncio.gather(*(self._ledger.reserve(user, number % 3 + 1) for user in users))
        await self._ledger.handle(handlers.resolve, failed(users[0], placed[0]))

    async def late_commit(self, number: int) -> None:
        """What began before rounds and other commits, and ends after them."""
        async with self._ledger.transactions.begin() as late:
            await handlers.reserve(late, [received(order(self._platform.buyer, number % 3 + 1, new_id()))])
            await self._ledger.grant(self._platform.user, 1)
            for _ in range(2):
                await Prover(self._engine, self._engine, AT_REST, 0).prove()

    async def compare(self) -> None:
        """A round finds what the check of all history finds, and stores it."""
        await Prover(self._engine, self._engine, AT_REST, ENOUGH_SECONDS).prove()
        reference = await check(self._engine, AT_REST)
        async with self._engine.connect() as connection:
            stored = {(row.code, row.subject_key) for row in await connection.execute(OPEN)}
        assert stored == {(one.code, one.subject) for one in reference.violations}


EVENTS: tuple[Callable[[HistoryHarness, int], Awaitable[None]], ...] = (
    HistoryHarness.plant,
    HistoryHarness.orders_at_once,
    HistoryHarness.late_commit,
)
HISTORIES = st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, len(PLANTED) - 1)), min_size=1, max_size=4)


@pytest.mark.timeout(600)
def test_the_rounds_find_what_the_check_of_all_history_finds(database_factory: DatabaseFactory) -> None:
    is_campaign = settings.get_current_profile_name() == "campaign"
    options: dict[str, Any] = {} if is_campaign else {"max_examples": 3, "derandomize": True}

    @settings(database=None, suppress_health_check=list(HealthCheck), **options)
    @given(HISTORIES)
    def any_history(events: list[tuple[Callable[[HistoryHarness, int], Awaitable[None]], int]]) -> None:
        asyncio.run(_replay(database_factory, events))

    any_history()


async def _replay(
    database_factory: DatabaseFactory, events: list[tuple[Callable[[HistoryHarness, int], Awaitable[None]], int]]
) -> None:
    database = await database_factory.make(SERVICES)
    engine = engine_for(database.dsn("auditor"), application_name="test", pool_size=3)
    try:
        history = HistoryHarness(await build_platform(database), engine)
        await history.compare()
        for event, number in events:
            await event(history, number)
            await history.compare()
    finally:
        await engine.dispose()
        await database.dispose()
        await database_factory.drop(database)
