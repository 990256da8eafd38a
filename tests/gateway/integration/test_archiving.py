"""Old timelines take one row each, and nobody sees a difference."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway import archiving, queries
from gateway.archiving import Archived
from gateway.events import BalanceUpdated, GenerationEventName, GenerationUpdated
from gateway.projections import HistoryEntry, append_history
from gateway.queries import GenerationFilter
from gateway.statuses import GenerationStatus
from messaging.ids import new_id
from tests.support.databases import Database, MakeDatabase
from tests.support.waiting import eventually

STEPS: Final[tuple[GenerationEventName, ...]] = ("credits_reserved", "queued", "running", "completed")
OLD_DAYS, YOUNG_DAYS, AGE_DAYS = 100, 20, 60

ADD_GENERATION = text("""
    INSERT INTO gateway.generations (
        generation_id, user_id, status, model_id, kind, parameters, price_credits, captured_credits, lane, requested_at,
        expires_at, updated_at)
    VALUES (:id, :user_id, :status, 'flux-schnell', 'image', '{}', 3, 3, 'pro', :at, :at, :updated_at)
""")


@dataclass
class ArchiveHarness:
    """A gateway's database with two months of one user's orders."""

    database: Database
    engine: AsyncEngine
    user_id: UUID

    async def add_order(
        self,
        days: float,
        status: GenerationStatus = "completed",
        last_days: float | None = None,
        updated_days: float | None = None,
    ) -> UUID:
        """An order of ``days`` ago. Its last entry may be younger, and so may the last change of its row."""
        generation_id, at = new_id(), datetime.now(UTC) - timedelta(days=days)
        updated_at = at if updated_days is None else datetime.now(UTC) - timedelta(days=updated_days)
        values = {"id": generation_id, "user_id": self.user_id, "status": status, "at": at, "updated_at": updated_at}
        async with self.engine.begin() as connection:
            await connection.execute(ADD_GENERATION, values)
        entries = [self.entry(generation_id, name, at + timedelta(microseconds=7 * n)) for n, name in enumerate(STEPS)]
        if last_days is not None:
            entries.append(self.entry(generation_id, "previews_stored", datetime.now(UTC) - timedelta(days=last_days)))
        await self.append([*entries, self.balance_entry(at)])
        return generation_id

    async def append(self, entries: Sequence[HistoryEntry]) -> None:
        async with self.engine.begin() as connection:
            await append_history(connection, entries)

    def entry(self, generation_id: UUID, name: GenerationEventName, at: datetime) -> HistoryEntry:
        event = GenerationUpdated(generation_id=generation_id, name=name, captured_credits=3, detail='a "detail", é')
        data = msgspec.json.encode(event).decode()
        return HistoryEntry(self.user_id, new_id(), generation_id, event.event, name, data, at)

    def balance_entry(self, at: datetime) -> HistoryEntry:
        event = BalanceUpdated(
            name="balance_updated",
            available_credits=1,
            reserved_credits=0,
            receivable_credits=0,
            line_number=1,
            reason="capture",
        )
        data = msgspec.json.encode(event).decode()
        return HistoryEntry(self.user_id, new_id(), None, event.event, event.name, data, at)

    async def archive(self, days: int = AGE_DAYS) -> Archived:
        return [done async for done in archiving.archive(self.engine, days)][-1]

    async def everything_shown(self, orders: Sequence[UUID]) -> bytes:
        """What the API reads of the user, but for the event stream."""
        engine, user_id = self.engine, self.user_id
        return msgspec.json.encode(
            (
                [await queries.list_timeline(engine, user_id, one) for one in orders],
                [await queries.find_generation(engine, user_id, one) for one in orders],
                await queries.list_generations(engine, user_id, GenerationFilter(), None, 50),
                await queries.find_balance(engine, user_id),
                await queries.list_lines(engine, user_id, None, 50),
                await queries.list_usage(engine, user_id, date(2020, 1, 1), date(2100, 1, 1)),
            )
        )

    async def count(self, table: str, generation_id: UUID) -> int:
        column = "subject_id" if table == "activity" else "generation_id"
        async with self.engine.connect() as connection:
            query = text(f"SELECT count(*) FROM gateway.{table} WHERE {column} = :id")
            return int((await connection.execute(query, {"id": generation_id})).scalar_one())


@pytest.fixture
async def harness(make_database: MakeDatabase) -> ArchiveHarness:
    database = await make_database("gateway")
    return ArchiveHarness(database, database.engine("gateway"), new_id())


async def test_a_month_of_two_is_archived_and_nobody_sees_a_difference(harness: ArchiveHarness) -> None:
    old = [await harness.add_order(OLD_DAYS) for _ in range(3)]
    young = await harness.add_order(YOUNG_DAYS)
    open_order = await harness.add_order(OLD_DAYS, status="running")
    touched = await harness.add_order(OLD_DAYS, last_days=YOUNG_DAYS)
    changed = await harness.add_order(OLD_DAYS, updated_days=YOUNG_DAYS)
    orders = [*old, young, open_order, touched, changed]
    before = await harness.everything_shown(orders)
    history = await queries.list_history(harness.engine, harness.user_id, 0, 100)

    assert await harness.archive() == Archived(orders=3, entries=3 * len(STEPS), balance_entries=6)
    assert await harness.everything_shown(orders) == before
    assert await queries.list_timeline(harness.engine, new_id(), old[0]) == [], "it is another user's"
    assert [await harness.count("activity", one) for one in orders] == [0, 0, 0, 4, 4, 5, 4]
    assert [await harness.count("archived_timelines", one) for one in orders] == [1, 1, 1, 0, 0, 0, 0]
    # A stream that resumes from the beginning gets what is there, under the numbers that it had.
    left = await queries.list_history(harness.engine, harness.user_id, 0, 100)
    assert left == [one for one in history if one in left]
    assert len(left) == len(history) - 3 * len(STEPS) - 6

    assert await harness.archive() == Archived(), "what is done is not done again"
    # An archived order is deleted by its user later: that is shown, and archived in its turn.
    at = datetime.now(UTC) - timedelta(days=AGE_DAYS + 1)
    await harness.append([harness.entry(old[0], "deleted", at)])
    names = [*STEPS, "deleted"]
    assert [one.name for one in await queries.list_timeline(harness.engine, harness.user_id, old[0])] == names
    assert await harness.archive() == Archived(orders=1, entries=1)
    assert await harness.count("activity", old[0]) == 0
    assert [one.name for one in await queries.list_timeline(harness.engine, harness.user_id, old[0])] == names


async def test_the_service_can_remove_or_change_no_entry_itself(harness: ArchiveHarness) -> None:
    await harness.add_order(OLD_DAYS)
    with pytest.raises(DBAPIError, match="entries stay for 30 days or more, not 29"):
        await harness.archive(29)
    await harness.archive()
    for statement in (
        "DELETE FROM gateway.activity",
        "DELETE FROM gateway.archived_timelines",
        "UPDATE gateway.archived_timelines SET entries = '[]'",
        "UPDATE gateway.timeline_archives SET captured_credits = 0",
    ):
        async with harness.engine.connect() as connection:
            with pytest.raises(ProgrammingError, match="permission denied"):
                await connection.execute(text(statement))


async def test_a_kill_in_the_middle_leaves_each_order_wholly_here_or_there(
    harness: ArchiveHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "SUBJECTS_PER_STEP", 1)
    orders = sorted([await harness.add_order(OLD_DAYS) for _ in range(2)])
    before = await harness.everything_shown(orders)
    # One step is done, and the command is killed in the next one, in the middle of its transaction.
    await anext(archiving.archive(harness.engine, AGE_DAYS))
    async with harness.database.superuser_engine().connect() as blocking:
        lock = text("SELECT FROM gateway.activity WHERE subject_id = :id ORDER BY sequence DESC LIMIT 1 FOR UPDATE")
        await blocking.execute(lock, {"id": orders[1]})
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.main", "archive", "--older-than-days", str(AGE_DAYS)),
            env={**os.environ, "GATEWAY_DATABASE_URL": harness.database.dsn("gateway")},
        )
        try:

            async def waits_for_the_row() -> bool:
                query = text("""
                    SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                        AND application_name = 'reelhouse-gateway-archive' AND wait_event_type = 'Lock')
                """)
                # A transaction sees the same activity until it ends.
                async with harness.database.superuser_engine().connect() as looking:
                    return bool(await looking.scalar(query))

            await eventually(waits_for_the_row, timeout=30, what="the command in the middle of its transaction")
        finally:
            command.send_signal(signal.SIGKILL)
            await command.wait()
    assert [await harness.count("activity", one) for one in orders] == [0, len(STEPS)]
    assert [await harness.count("archived_timelines", one) for one in orders] == [1, 0]
    assert await harness.everything_shown(orders) == before
    assert (await harness.archive()).orders == 1
    assert await harness.everything_shown(orders) == before
