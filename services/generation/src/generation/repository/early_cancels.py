"""Cancels that came before their orders. They wait here until the order comes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_ADD: Final = text("""
    INSERT INTO generation.cancellations (generation_id, user_id, requested_at)
    SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:users AS uuid[]), CAST(:times AS timestamptz[]))
    ON CONFLICT (generation_id) DO NOTHING
""")

_LOCK: Final = text("""
    SELECT c.generation_id, c.user_id FROM generation.cancellations AS c
    CROSS JOIN LATERAL (
        SELECT FROM generation.video_generations AS g WHERE g.generation_id = c.generation_id
        FOR UPDATE SKIP LOCKED
    ) AS locked
    LIMIT :batch
    FOR UPDATE OF c SKIP LOCKED
""")

_REMOVE: Final = text("""
    DELETE FROM generation.cancellations WHERE generation_id = ANY(CAST(:ids AS uuid[]))
""")

_PURGE: Final = text("""
    DELETE FROM generation.cancellations WHERE requested_at < clock_timestamp() - interval '8 days'
""")


@dataclass(frozen=True, slots=True)
class EarlyCancel:
    """A cancel that waits for its order."""

    generation_id: UUID
    user_id: UUID
    requested_at: datetime


async def add_early_cancels(connection: AsyncConnection, cancels: Sequence[EarlyCancel]) -> None:
    """Keep cancels until their orders come."""
    await connection.execute(
        _ADD,
        {
            "ids": [one.generation_id for one in cancels],
            "users": [one.user_id for one in cancels],
            "times": [one.requested_at for one in cancels],
        },
    )


async def lock_early_cancels(connection: AsyncConnection, batch: int) -> dict[UUID, UUID]:
    """Cancels whose order has come meanwhile: order to the user who asked. Locks both."""
    return {row.generation_id: row.user_id for row in await connection.execute(_LOCK, {"batch": batch})}


async def remove_early_cancels(connection: AsyncConnection, generation_ids: Sequence[UUID]) -> None:
    """Remove the cancels that waited for these orders."""
    await connection.execute(_REMOVE, {"ids": list(generation_ids)})


async def purge_early_cancels(connection: AsyncConnection) -> None:
    """Forget cancels whose order can no longer come: messages live for 7 days."""
    await connection.execute(_PURGE)
