"""Verifications that were answered long ago are dropped, and no others."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from messaging.ids import new_id
from storage import archiving
from storage.archiving import Dropped, drop_old_verifications
from storage.tables import verifications
from tests.support.databases import MakeDatabase

AGE_DAYS = 60


async def add(engine: AsyncEngine, asked_days: float, answered_days: float | None) -> UUID:
    """A verification that was requested and answered so many days ago, or is open."""
    message_id, now = new_id(), datetime.now(UTC)
    row = {
        "message_id": message_id,
        "subject": "generation.event.output-ready.v1",
        "generation_id": new_id(),
        "user_id": new_id(),
        "payload": b"{}",
        "asked_at": now - timedelta(days=asked_days),
        "answered_at": None if answered_days is None else now - timedelta(days=answered_days),
        "next_try_at": now if answered_days is None else None,
    }
    async with engine.begin() as connection:
        await connection.execute(sa.insert(verifications).values(row))
    return message_id


async def left(engine: AsyncEngine) -> set[UUID]:
    async with engine.connect() as connection:
        return set((await connection.execute(sa.select(verifications.c.message_id))).scalars())


async def test_what_was_answered_long_ago_is_dropped_and_nothing_else(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = (await make_database("storage")).engine("storage")
    for _ in range(3):
        await add(engine, 100, 100)
    kept = {await add(engine, 20, 20), await add(engine, 100, None), await add(engine, 100, 20)}
    monkeypatch.setattr(archiving, "ROWS_PER_STEP", 1)
    # The command was killed after its first step: the next one does what is left.
    assert await anext(drop_old_verifications(engine, AGE_DAYS)) == Dropped(1)
    assert [done async for done in drop_old_verifications(engine, AGE_DAYS)][-1] == Dropped(2)
    assert await left(engine) == kept


async def test_the_service_can_drop_no_verification_itself(make_database: MakeDatabase) -> None:
    engine = (await make_database("storage")).engine("storage")
    with pytest.raises(DBAPIError, match="verifications stay for 30 days or more, not 29"):
        await anext(drop_old_verifications(engine, 29))
    async with engine.connect() as connection:
        with pytest.raises(ProgrammingError, match="permission denied"):
            await connection.execute(sa.delete(verifications))
