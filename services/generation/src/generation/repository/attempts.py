"""Which attempts and orders are due for something. Taking one moves its timer on, so that replicas share the work.

Every timer is compared with the database's clock. Nothing here waits for a lock: what is locked is somebody's already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from generation.domain.order import AttemptStatus

MAX_CANCEL_TRIES: Final = 8

_TAKE_CHECKS: Final = text("""
    UPDATE generation.attempts AS a
    SET check_at = clock_timestamp() + make_interval(secs => CASE
            WHEN a.provider_job_id IS NULL THEN least(CAST(:interval_seconds AS double precision), 15)
            ELSE :interval_seconds END),
        last_checked_at = clock_timestamp()
    FROM (
        SELECT attempt_id FROM generation.attempts
        WHERE status IN ('prepared', 'unknown', 'submitted', 'running') AND check_at <= clock_timestamp()
        ORDER BY check_at LIMIT :batch
        FOR UPDATE SKIP LOCKED
    ) AS due
    WHERE a.attempt_id = due.attempt_id
    RETURNING a.attempt_id, a.generation_id, a.status, a.fence_token, a.endpoint_id, a.provider_job_id
""")

_TAKE_CANCELS: Final = text(f"""
    UPDATE generation.attempts AS a
    SET cancel_tries = a.cancel_tries + 1,
        cancel_due_at = CASE WHEN a.cancel_tries + 1 < {MAX_CANCEL_TRIES}
            THEN clock_timestamp() + make_interval(secs => power(2, a.cancel_tries)) END
    FROM (
        SELECT attempt_id FROM generation.attempts
        WHERE cancel_due_at <= clock_timestamp() AND provider_job_id IS NOT NULL
        ORDER BY cancel_due_at LIMIT :batch
        FOR UPDATE SKIP LOCKED
    ) AS due
    WHERE a.attempt_id = due.attempt_id
    RETURNING a.attempt_id, a.generation_id, a.status, a.fence_token, a.endpoint_id, a.provider_job_id
""")  # noqa: S608 - the only insertion is the constant above

_LOCK_OVERDUE: Final = text("""
    SELECT generation_id FROM generation.video_generations
    WHERE status NOT IN ('completed', 'failed', 'cancelled') AND deadline_at <= clock_timestamp()
    ORDER BY deadline_at LIMIT :batch
    FOR UPDATE SKIP LOCKED
""")

_LOCK_RETRIES: Final = text("""
    SELECT generation_id FROM generation.video_generations
    WHERE status = 'queued' AND NOT ready AND inputs_ready AND sought_version IS NULL
      AND next_attempt_at <= clock_timestamp()
    ORDER BY next_attempt_at LIMIT :batch
    FOR UPDATE SKIP LOCKED
""")

_LOCK_TOMBSTONES: Final = text("""
    SELECT c.generation_id, c.user_id FROM generation.cancellations AS c
    JOIN generation.video_generations AS g USING (generation_id)
    LIMIT :batch
    FOR UPDATE OF c, g SKIP LOCKED
""")

_ADD_TOMBSTONES: Final = text("""
    INSERT INTO generation.cancellations (generation_id, user_id, requested_at)
    SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:users AS uuid[]), CAST(:times AS timestamptz[]))
    ON CONFLICT (generation_id) DO NOTHING
""")

_REMOVE_TOMBSTONES: Final = text("""
    DELETE FROM generation.cancellations WHERE generation_id = ANY(CAST(:ids AS uuid[]))
    RETURNING generation_id, user_id
""")

_PURGE_TOMBSTONES: Final = text("""
    DELETE FROM generation.cancellations WHERE requested_at < clock_timestamp() - interval '8 days'
""")


@dataclass(frozen=True, slots=True)
class DueAttempt:
    """An attempt whose timer has run out, as it was when it was taken."""

    attempt_id: UUID
    generation_id: UUID
    status: AttemptStatus
    fence_token: int
    endpoint_id: str
    provider_job_id: str | None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A cancel that waits for its order."""

    generation_id: UUID
    user_id: UUID
    requested_at: datetime


async def take_due_checks(connection: AsyncConnection, batch: int, interval_seconds: float) -> list[DueAttempt]:
    """Live attempts that should be looked at; each comes again after ``interval_seconds``."""
    rows = await connection.execute(_TAKE_CHECKS, {"batch": batch, "interval_seconds": interval_seconds})
    return [DueAttempt(*row) for row in rows]


async def take_due_cancels(connection: AsyncConnection, batch: int) -> list[DueAttempt]:
    """Attempts whose job is to be stopped; each comes again, ever later, until it is done or given up."""
    rows = await connection.execute(_TAKE_CANCELS, {"batch": batch})
    return [DueAttempt(*row) for row in rows]


async def lock_overdue(connection: AsyncConnection, batch: int) -> list[UUID]:
    """Orders whose state has lasted too long."""
    return list((await connection.execute(_LOCK_OVERDUE, {"batch": batch})).scalars())


async def lock_retries(connection: AsyncConnection, batch: int) -> list[UUID]:
    """Queued orders whose backoff is over."""
    return list((await connection.execute(_LOCK_RETRIES, {"batch": batch})).scalars())


async def lock_tombstones(connection: AsyncConnection, batch: int) -> dict[UUID, UUID]:
    """Cancels whose order has come meanwhile: order to the user who asked."""
    return {row[0]: row[1] for row in await connection.execute(_LOCK_TOMBSTONES, {"batch": batch})}


async def add_tombstones(connection: AsyncConnection, tombstones: Sequence[Tombstone]) -> None:
    """Keep cancels until their orders come."""
    await connection.execute(
        _ADD_TOMBSTONES,
        {
            "ids": [one.generation_id for one in tombstones],
            "users": [one.user_id for one in tombstones],
            "times": [one.requested_at for one in tombstones],
        },
    )


async def remove_tombstones(connection: AsyncConnection, generation_ids: Sequence[UUID]) -> dict[UUID, UUID]:
    """Take out the cancels that waited for these orders: order to the user who asked."""
    return {row[0]: row[1] for row in await connection.execute(_REMOVE_TOMBSTONES, {"ids": list(generation_ids)})}


async def purge_tombstones(connection: AsyncConnection) -> None:
    """Forget cancels whose order can no longer come: messages live for 7 days."""
    await connection.execute(_PURGE_TOMBSTONES)
