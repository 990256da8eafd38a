"""Attempts that are due for a check or a cancel.

To take one moves its timer on, so that replicas share the work. Attempts that are locked are skipped, and every timer
is compared with the database's clock. An attempt whose timer is up is decided on under its order's lock
(``repository.orders``); the fence token and the status seen here tell whether it changed meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from generation.domain.statuses import AttemptStatus
from generation.tables import LIVE_ATTEMPT
from service_runtime.backoff import Backoff
from service_runtime.statements import Statement

MAX_CANCEL_TRIES: Final = 8
_CANCEL_BACKOFF: Final = Backoff(first=timedelta(seconds=1), longest=timedelta(minutes=2))
_LONGEST_RESOLUTION_SECONDS: Final = 15.0
"""An attempt without a job id needs no answer of the provider: if its process dies, another one takes it this soon."""

DUE_CHECK: Final = f"{LIVE_ATTEMPT} AND check_at <= clock_timestamp()"
DUE_CANCEL: Final = "cancel_due_at <= clock_timestamp() AND provider_job_id IS NOT NULL"

# A new fence token for an attempt that was not sent in time: from here on its dispatcher cannot mark it any more.
_TAKE_CHECKS: Final = Statement(f"""
    UPDATE generation.attempts AS a
    SET check_at = clock_timestamp() + make_interval(secs => CASE
            WHEN a.provider_job_id IS NULL THEN :resolution_seconds
            ELSE CAST(:interval_seconds AS double precision) END),
        last_checked_at = clock_timestamp(),
        fence_token = a.fence_token + CASE WHEN a.status = 'prepared' AND a.sending_at IS NULL THEN 1 ELSE 0 END
    WHERE a.attempt_id = ANY (ARRAY(
        SELECT attempt_id FROM generation.attempts
        WHERE {DUE_CHECK}
        ORDER BY check_at LIMIT :batch
        FOR UPDATE SKIP LOCKED))
    RETURNING a.attempt_id, a.generation_id, a.status, a.fence_token, a.endpoint_id, a.provider_job_id
""")  # noqa: S608 - the only insertion is the index's condition

# ``coalesce`` hides the status from the planner, which would read the index of live attempts for each of them. An
# attempt that is locked is being cancelled or given up.
_MARK_SENDING: Final = Statement("""
    UPDATE generation.attempts AS a
    SET sending_at = clock_timestamp(), check_at = clock_timestamp() + make_interval(secs => :lease_seconds)
    WHERE a.attempt_id = ANY (ARRAY(
        SELECT prepared.attempt_id
        FROM unnest(CAST(:ids AS uuid[]), CAST(:fence_tokens AS bigint[])) AS mine (attempt_id, fence_token)
        CROSS JOIN LATERAL (
            SELECT o.attempt_id FROM generation.attempts AS o
            WHERE o.attempt_id = mine.attempt_id AND o.fence_token = mine.fence_token
              AND coalesce(o.status = 'prepared' AND o.sending_at IS NULL, false)
            FOR UPDATE SKIP LOCKED
        ) AS prepared))
    RETURNING a.attempt_id
""")

_LOCK_DUE_CANCELS: Final = text(f"""
    SELECT attempt_id, generation_id, status, fence_token, endpoint_id, provider_job_id, cancel_tries
    FROM generation.attempts
    WHERE {DUE_CANCEL}
    ORDER BY cancel_due_at LIMIT :batch
    FOR UPDATE SKIP LOCKED
""")  # noqa: S608 - the only insertion is a condition

_SCHEDULE_CANCELS: Final = text("""
    UPDATE generation.attempts AS a
    SET cancel_tries = a.cancel_tries + 1, cancel_due_at = clock_timestamp() + make_interval(secs => r.seconds)
    FROM unnest(CAST(:ids AS uuid[]), CAST(:seconds AS double precision[])) AS r(attempt_id, seconds)
    WHERE a.attempt_id = r.attempt_id
""")

_FIND: Final = Statement("""
    SELECT g.generation_id, g.user_id, a.attempt_number, a.status
    FROM generation.attempts AS a JOIN generation.video_generations AS g USING (generation_id)
    WHERE a.attempt_id = :attempt_id
""")


@dataclass(frozen=True, slots=True)
class DueAttempt:
    """An attempt whose timer was up, as it was when it was taken."""

    attempt_id: UUID
    generation_id: UUID
    status: AttemptStatus
    fence_token: int
    endpoint_id: str
    provider_job_id: str | None


@dataclass(frozen=True, slots=True)
class KnownAttempt:
    """Whose attempt it is, and what is known of it."""

    generation_id: UUID
    user_id: UUID
    attempt_number: int
    status: AttemptStatus


async def take_due_checks(connection: AsyncConnection, batch: int, interval_seconds: float) -> list[DueAttempt]:
    """Live attempts that are due for a check; each comes again after ``interval_seconds``."""
    values = {
        "batch": batch,
        "interval_seconds": interval_seconds,
        "resolution_seconds": min(interval_seconds, _LONGEST_RESOLUTION_SECONDS),
    }
    return [DueAttempt(*row) for row in await _TAKE_CHECKS.fetch(connection, values)]


async def mark_sending(
    connection: AsyncConnection, attempts: Sequence[tuple[UUID, int]], lease_seconds: float
) -> set[UUID]:
    """Say that these attempts (id and fence token) are about to be sent. Returns those that may be: still prepared.

    The lease of an attempt that is marked is the time for its answer.
    """
    values = {
        "ids": [attempt_id for attempt_id, _ in attempts],
        "fence_tokens": [fence_token for _, fence_token in attempts],
        "lease_seconds": lease_seconds,
    }
    return {attempt_id for (attempt_id,) in await _MARK_SENDING.fetch(connection, values)}


async def take_due_cancels(connection: AsyncConnection, batch: int) -> list[DueAttempt]:
    """Attempts whose job is to be stopped; each comes again, ever later, until it is stopped or given up."""
    rows = (await connection.execute(_LOCK_DUE_CANCELS, {"batch": batch})).all()
    if rows:
        pauses = [_next_cancel_seconds(row.attempt_id, row.cancel_tries + 1) for row in rows]
        await connection.execute(_SCHEDULE_CANCELS, {"ids": [row.attempt_id for row in rows], "seconds": pauses})
    return [DueAttempt(*row[:-1]) for row in rows]


async def find_attempt(connection: AsyncConnection, attempt_id: UUID) -> KnownAttempt | None:
    """The attempt of that id, unlocked."""
    row = await _FIND.fetch_one(connection, {"attempt_id": attempt_id})
    return None if row is None else KnownAttempt(*row)


def _next_cancel_seconds(attempt_id: UUID, tries: int) -> float | None:
    return _CANCEL_BACKOFF.seconds(tries, attempt_id) if tries < MAX_CANCEL_TRIES else None
