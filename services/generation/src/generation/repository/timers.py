"""Orders that are due for something because time has passed. Orders that are locked are skipped.

Every timer is compared with the database's clock.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from generation.tables import AWAITING_RETRY, OPEN_ORDER
from service_runtime.statements import Statement

OVERDUE: Final = f"{OPEN_ORDER} AND deadline_at <= clock_timestamp()"
DUE_RETRY: Final = f"{AWAITING_RETRY} AND next_attempt_at <= clock_timestamp()"

_LOCK_OVERDUE: Final = text(f"""
    SELECT generation_id FROM generation.video_generations
    WHERE {OVERDUE}
    ORDER BY deadline_at LIMIT :batch
    FOR UPDATE SKIP LOCKED
""")  # noqa: S608 - the only insertion is the index's condition

_LOCK_RETRIES: Final = text(f"""
    SELECT generation_id FROM generation.video_generations
    WHERE {DUE_RETRY}
    ORDER BY next_attempt_at LIMIT :batch
    FOR UPDATE SKIP LOCKED
""")  # noqa: S608 - the only insertion is the index's condition

_FIND_DUE: Final = Statement(f"""
    SELECT EXISTS (SELECT FROM generation.video_generations WHERE {OVERDUE}),
           EXISTS (SELECT FROM generation.video_generations WHERE {DUE_RETRY}),
           EXISTS (SELECT FROM generation.cancellations)
""")  # noqa: S608 - the only insertions are the conditions of indexes


@dataclass(frozen=True, slots=True)
class DueTimers:
    """What there may be to do. ``early_cancels`` wait for orders, which may not have come."""

    overdue: bool
    retries: bool
    early_cancels: bool


async def find_due(connection: AsyncConnection) -> DueTimers:
    """Whether there is anything to lock: mostly there is not, and this is one statement."""
    (found,) = await _FIND_DUE.fetch(connection, {})
    return DueTimers(*found)


async def lock_overdue(connection: AsyncConnection, batch: int) -> list[UUID]:
    """Orders whose state has lasted too long."""
    return list((await connection.execute(_LOCK_OVERDUE, {"batch": batch})).scalars())


async def lock_retries(connection: AsyncConnection, batch: int) -> list[UUID]:
    """Queued orders whose backoff is over."""
    return list((await connection.execute(_LOCK_RETRIES, {"batch": batch})).scalars())
