"""What the provider reported, raw: stored before it is acted on, and kept for a while after.

A body is processed in one of three ways. Most webhooks are stored and acted on in one transaction (``ADD_PROCESSED``).
What was only stored is locked, acted on and marked in one transaction, a batch at a time (``lock_due_callbacks``). One
that carries a file, or the address of one, is leased work (``messaging.leases``): its
file is transferred outside any transaction.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from generation.tables import provider_callbacks
from messaging.ids import new_id
from messaging.leases import Claim, LeasedTable
from messaging.outbox import Writes
from service_runtime.statements import Statement

INLINE_BYTES: Final = 256 * 1024
"""A larger body carries its file itself. It is read alone, when the file is transferred."""
MOST_TOGETHER: Final = 50
"""So many are acted on in one transaction at most: all of an outage in one would hold its orders for long."""
LEASES: Final = LeasedTable(provider_callbacks)

Source = Literal["webhook", "status"]


@dataclass(frozen=True, slots=True)
class Room:
    """How much is stored for one attempt from one source: different bodies, and their bytes together."""

    bodies: int
    size_bytes: int


ROOM: Final[Mapping[Source, Room]] = {
    "webhook": Room(bodies=32, size_bytes=24 * 1024 * 1024),
    "status": Room(bodies=4, size_bytes=48 * 1024 * 1024),
}
"""One result of the largest size (20 MiB) and small reports beside it; of ``/status``, two such results.

A worker knows the address of its webhook and can say anything there, as often as it likes. What the provider answers
when it is polled has room of its own: so the true end of a job is stored, whatever its worker sent before.
"""

_ADD: Final = Statement("""
    INSERT INTO generation.provider_callbacks (callback_id, attempt_id, source, body, body_sha256)
    SELECT CAST(:callback_id AS uuid), CAST(:attempt_id AS uuid), :source, :body, :body_sha256
    WHERE (SELECT count(*) < :bodies AND coalesce(sum(octet_length(body)), 0) + :size_bytes <= :room_bytes
           FROM generation.provider_callbacks WHERE attempt_id = CAST(:attempt_id AS uuid) AND source = :source)
    ON CONFLICT (attempt_id, body_sha256) DO NOTHING
    RETURNING callback_id
""")

ADD_PROCESSED: Final = Writes(
    """
    bodies AS (
        INSERT INTO generation.provider_callbacks (
            callback_id, attempt_id, source, body, body_sha256, received_at, due_at, processed_at, outcome)
        SELECT r.callback_id, r.attempt_id, 'webhook', r.body, r.body_sha256, r.received_at, NULL, clock_timestamp(),
               r.outcome
        FROM unnest(
            CAST(:callback_ids AS uuid[]), CAST(:attempt_ids AS uuid[]), CAST(:bodies AS bytea[]),
            CAST(:hashes AS bytea[]), CAST(:times AS timestamptz[]), CAST(:outcomes AS text[]))
            AS r(callback_id, attempt_id, body, body_sha256, received_at, outcome)
        WHERE (SELECT count(*) < :most_bodies
                      AND coalesce(sum(octet_length(c.body)), 0) + octet_length(r.body) <= :room_bytes
               FROM generation.provider_callbacks AS c WHERE c.attempt_id = r.attempt_id AND c.source = 'webhook')
        ON CONFLICT (attempt_id, body_sha256) DO NOTHING
        RETURNING callback_id
    )""",
    "(SELECT count(*) FROM bodies)",
)

_FIND_KNOWN: Final = Statement("""
    SELECT FROM generation.provider_callbacks WHERE attempt_id = :attempt_id AND body_sha256 = :body_sha256
""")

DUE_CALLBACK: Final = "c.processed_at IS NULL AND NOT c.carries_file AND c.due_at <= clock_timestamp()"
DUE_CARRIER: Final = f"d.processed_at IS NULL AND d.carries_file AND {LEASES.due_sql('d')}"

_LOCK_DUE: Final = Statement(f"""
    SELECT c.callback_id, c.attempt_id,
           (SELECT a.generation_id FROM generation.attempts AS a WHERE a.attempt_id = c.attempt_id) AS generation_id,
           c.source, CASE WHEN octet_length(c.body) <= :inline_bytes THEN c.body END AS body, c.received_at, c.tries
    FROM generation.provider_callbacks AS c
    WHERE {DUE_CALLBACK}
    ORDER BY c.due_at LIMIT :batch
    FOR UPDATE SKIP LOCKED
""")  # noqa: S608 - the only insertion is a condition

_MARK_PROCESSED: Final = Statement("""
    UPDATE generation.provider_callbacks AS c
    SET processed_at = clock_timestamp(), outcome = r.outcome, due_at = NULL
    FROM unnest(CAST(:ids AS uuid[]), CAST(:outcomes AS text[])) AS r(callback_id, outcome)
    WHERE c.callback_id = r.callback_id AND c.processed_at IS NULL
""")

_MARK_CARRIERS: Final = Statement("""
    UPDATE generation.provider_callbacks SET carries_file = true
    WHERE callback_id = ANY(CAST(:ids AS uuid[])) AND processed_at IS NULL
""")

_POSTPONE: Final = Statement("""
    UPDATE generation.provider_callbacks
    SET tries = tries + 1, due_at = clock_timestamp() + make_interval(secs => :seconds)
    WHERE callback_id = :callback_id AND processed_at IS NULL
""")

_CLAIM_CARRIERS: Final = text(f"""
    UPDATE generation.provider_callbacks AS c SET {LEASES.claim_sql("c")}
    WHERE c.callback_id = ANY (ARRAY(
        SELECT d.callback_id FROM generation.provider_callbacks AS d
        WHERE {DUE_CARRIER}
        ORDER BY d.due_at LIMIT :room
        FOR UPDATE SKIP LOCKED))
    RETURNING c.callback_id, c.fence, c.tries, c.attempt_id, c.received_at,
        clock_timestamp() - c.received_at AS waited,
        (SELECT a.generation_id FROM generation.attempts AS a WHERE a.attempt_id = c.attempt_id) AS generation_id,
        (SELECT g.traceparent FROM generation.attempts AS a JOIN generation.video_generations AS g USING (generation_id)
            WHERE a.attempt_id = c.attempt_id) AS traceparent
""")  # noqa: S608 - the insertions name columns

_GET_BODY: Final = text("SELECT body FROM generation.provider_callbacks WHERE callback_id = :callback_id")

_PURGE: Final = text("""
    DELETE FROM generation.provider_callbacks WHERE callback_id = ANY (ARRAY(
        SELECT callback_id FROM generation.provider_callbacks
        WHERE processed_at < clock_timestamp() - make_interval(secs => :retention_seconds)
        ORDER BY processed_at LIMIT :batch))
""")


class BodyNotAdded(Exception):
    """A body that was acted on is known already, or there is no room for it. Nothing of it may be committed."""


@dataclass(frozen=True, slots=True)
class ProcessedBody:
    """A body of a webhook that is acted on in the transaction that stores it. One of an attempt at a time."""

    attempt_id: UUID
    body: bytes
    received_at: datetime
    outcome: str


@dataclass(frozen=True, slots=True)
class Callback:
    """One body that is locked. ``generation_id`` is None if there is no such attempt; ``body`` is None if it is too
    large to be read with others."""

    callback_id: UUID
    attempt_id: UUID
    generation_id: UUID | None
    source: Source
    body: bytes | None
    received_at: datetime
    tries: int


@dataclass(frozen=True, slots=True)
class Carrier:
    """One body that carries a file, claimed."""

    claim: Claim
    attempt_id: UUID
    generation_id: UUID
    received_at: datetime
    waited: timedelta
    traceparent: str | None

    @property
    def callback_id(self) -> UUID:
        """The key of the row."""
        key: UUID = self.claim.key[0]
        return key


async def add_callback(connection: AsyncConnection, attempt_id: UUID, source: Source, body: bytes) -> bool:
    """Store a body; the same one is not stored twice. Returns False if there is no room for it.

    For a body over ``INLINE_BYTES`` this needs a transaction: it waits for others of the attempt to be counted.
    """
    row = {"attempt_id": attempt_id, "body_sha256": hashlib.sha256(body).digest()}
    if len(body) > INLINE_BYTES:
        await lock_bodies(connection, attempt_id)
    room = ROOM[source]
    bounds = {"bodies": room.bodies, "room_bytes": room.size_bytes, "size_bytes": len(body)}
    added = await _ADD.execute(connection, {"callback_id": new_id(), "source": source, "body": body, **bounds, **row})
    return added == 1 or await _FIND_KNOWN.fetch_one(connection, row) is not None


def body_values(processed: Sequence[ProcessedBody]) -> dict[str, object]:
    """Parameters for ``ADD_PROCESSED``."""
    room = ROOM["webhook"]
    return {
        "callback_ids": [new_id() for _ in processed],
        "attempt_ids": [one.attempt_id for one in processed],
        "bodies": [one.body for one in processed],
        "hashes": [hashlib.sha256(one.body).digest() for one in processed],
        "times": [one.received_at for one in processed],
        "outcomes": [one.outcome for one in processed],
        "most_bodies": room.bodies,
        "room_bytes": room.size_bytes,
    }


async def lock_bodies(connection: AsyncConnection, attempt_id: UUID) -> None:
    """Until the end of the transaction no other one stores a large body of this attempt."""
    key = func.hashtextextended(f"provider_callbacks {attempt_id}", 0)
    await connection.execute(select(func.pg_advisory_xact_lock(key)))


async def lock_due_callbacks(connection: AsyncConnection, batch: int) -> list[Callback]:
    """Unprocessed bodies in order of arrival, without those that another process has locked."""
    rows = await _LOCK_DUE.fetch(connection, {"batch": batch, "inline_bytes": INLINE_BYTES})
    return [Callback(*row) for row in rows]


async def mark_processed(connection: AsyncConnection, outcomes: Sequence[tuple[UUID, str]]) -> None:
    """Record the outcome of each locked body."""
    ids, names = [one for one, _ in outcomes], [outcome for _, outcome in outcomes]
    await _MARK_PROCESSED.execute(connection, {"ids": ids, "outcomes": names})


async def mark_carriers(connection: AsyncConnection, callback_ids: Sequence[UUID]) -> None:
    """These locked bodies carry files: from now on they are leased work, due at once."""
    await _MARK_CARRIERS.execute(connection, {"ids": list(callback_ids)})


async def postpone(connection: AsyncConnection, callback_id: UUID, seconds: float) -> None:
    """Make a locked body due later."""
    await _POSTPONE.execute(connection, {"callback_id": callback_id, "seconds": seconds})


async def claim_carriers(connection: AsyncConnection, room: int, lease: timedelta) -> list[Carrier]:
    """Claim bodies that carry files, in order of arrival."""
    rows = await connection.execute(_CLAIM_CARRIERS, {"room": room, "lease": lease})
    return [
        Carrier(LEASES.claim_of(row), row.attempt_id, row.generation_id, row.received_at, row.waited, row.traceparent)
        for row in rows
    ]


async def get_body(connection: AsyncConnection, callback_id: UUID) -> bytes:
    """One body, whatever its size."""
    return bytes((await connection.execute(_GET_BODY, {"callback_id": callback_id})).scalar_one())


async def complete_carrier(connection: AsyncConnection, carrier: Carrier, outcome: str) -> bool:
    """Record the outcome of a claimed body. False if another process has claimed it since: then write nothing."""
    return await LEASES.complete(connection, carrier.claim, processed_at=func.clock_timestamp(), outcome=outcome)


async def purge_callbacks(connection: AsyncConnection, retention_seconds: float, batch: int) -> int:
    """Remove up to ``batch`` bodies that were processed long ago."""
    result = await connection.execute(_PURGE, {"retention_seconds": retention_seconds, "batch": batch})
    return result.rowcount
