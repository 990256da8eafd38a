"""What the provider reported, raw: stored before it is acted on, and kept for a while after."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from messaging.ids import new_id

MAX_BODIES_PER_ATTEMPT: Final = 32
"""Different bodies; RunPod sends the same one up to three times."""
INLINE_BYTES: Final = 256 * 1024
"""A larger body carries a file in it and is read by itself, when that file is put into the bucket."""

Source = Literal["webhook", "status"]

_ADD: Final = text("""
    INSERT INTO generation.provider_callbacks (callback_id, attempt_id, source, body, body_sha256)
    SELECT CAST(:callback_id AS uuid), CAST(:attempt_id AS uuid), :source, :body, :body_sha256
    WHERE :limit > (SELECT count(*) FROM generation.provider_callbacks WHERE attempt_id = CAST(:attempt_id AS uuid))
    ON CONFLICT (attempt_id, body_sha256) DO NOTHING
    RETURNING callback_id
""")

_IS_KNOWN: Final = text("""
    SELECT EXISTS (
        SELECT FROM generation.provider_callbacks WHERE attempt_id = :attempt_id AND body_sha256 = :body_sha256)
""")

_LOCK_DUE: Final = text("""
    SELECT c.callback_id, c.attempt_id, a.generation_id, c.source,
           CASE WHEN octet_length(c.body) <= :inline_bytes THEN c.body END AS body, c.received_at, c.tries
    FROM generation.provider_callbacks AS c LEFT JOIN generation.attempts AS a USING (attempt_id)
    WHERE c.processed_at IS NULL AND c.due_at <= clock_timestamp()
    ORDER BY c.due_at LIMIT :batch
    FOR UPDATE OF c SKIP LOCKED
""")

_EXTEND_LEASE: Final = text("""
    UPDATE generation.provider_callbacks SET due_at = clock_timestamp() + make_interval(secs => :seconds)
    WHERE callback_id = :callback_id AND tries = :lease AND processed_at IS NULL
""")

_GET_BODY: Final = text("SELECT body FROM generation.provider_callbacks WHERE callback_id = :callback_id")

_MARK: Final = text("""
    UPDATE generation.provider_callbacks AS c SET processed_at = clock_timestamp(), outcome = r.outcome
    FROM unnest(CAST(:ids AS uuid[]), CAST(:outcomes AS text[])) AS r(callback_id, outcome)
    WHERE c.callback_id = r.callback_id AND c.processed_at IS NULL
""")

_POSTPONE: Final = text("""
    UPDATE generation.provider_callbacks
    SET tries = tries + 1, due_at = clock_timestamp() + make_interval(secs => :seconds)
    WHERE callback_id = ANY(CAST(:ids AS uuid[])) AND processed_at IS NULL
""")

_PURGE: Final = text("""
    DELETE FROM generation.provider_callbacks WHERE callback_id IN (
        SELECT callback_id FROM generation.provider_callbacks
        WHERE processed_at < clock_timestamp() - make_interval(secs => :retention_seconds)
        ORDER BY processed_at LIMIT :batch)
""")


@dataclass(frozen=True, slots=True)
class Callback:
    """One stored body. ``body`` is None where it is too large to be read among others; ``generation_id`` is None if
    there is no such attempt."""

    callback_id: UUID
    attempt_id: UUID
    generation_id: UUID | None
    source: Source
    body: bytes | None
    received_at: datetime
    tries: int

    @property
    def lease(self) -> int:
        """What :func:`postpone` has made of ``tries``: the next process that leases the body raises it again."""
        return self.tries + 1


async def add_callback(connection: AsyncConnection, attempt_id: UUID, source: Source, body: bytes) -> bool:
    """Store a body; the same one is not stored twice. Returns False if the attempt has too many."""
    row = {"attempt_id": attempt_id, "body_sha256": hashlib.sha256(body).digest()}
    added = await connection.execute(
        _ADD, {"callback_id": new_id(), "source": source, "body": body, "limit": MAX_BODIES_PER_ATTEMPT, **row}
    )
    return added.first() is not None or bool((await connection.execute(_IS_KNOWN, row)).scalar())


async def lock_due_callbacks(connection: AsyncConnection, batch: int) -> list[Callback]:
    """Unprocessed bodies in order of arrival, past those that another process has."""
    rows = await connection.execute(_LOCK_DUE, {"batch": batch, "inline_bytes": INLINE_BYTES})
    return [Callback(*row) for row in rows]


async def extend_lease(connection: AsyncConnection, callback: Callback, seconds: float) -> bool:
    """Lock a body that this process has leased, and extend the lease.

    Returns False if the lease ran out and another process has the body, or has processed it.
    """
    values = {"callback_id": callback.callback_id, "lease": callback.lease, "seconds": seconds}
    return (await connection.execute(_EXTEND_LEASE, values)).rowcount == 1


async def get_body(connection: AsyncConnection, callback_id: UUID) -> bytes:
    """One body, whatever its size."""
    return bytes((await connection.execute(_GET_BODY, {"callback_id": callback_id})).scalar_one())


async def mark_processed(connection: AsyncConnection, outcomes: Sequence[tuple[UUID, str]]) -> None:
    """Record the outcome of each body."""
    await connection.execute(
        _MARK, {"ids": [one for one, _ in outcomes], "outcomes": [outcome for _, outcome in outcomes]}
    )


async def postpone(connection: AsyncConnection, callback_ids: Sequence[UUID], seconds: float) -> None:
    """Make these bodies due later, unless they have been processed."""
    await connection.execute(_POSTPONE, {"ids": list(callback_ids), "seconds": seconds})


async def purge_callbacks(connection: AsyncConnection, retention_seconds: float, batch: int) -> int:
    """Remove up to ``batch`` bodies that were processed long ago."""
    result = await connection.execute(_PURGE, {"retention_seconds": retention_seconds, "batch": batch})
    return result.rowcount
