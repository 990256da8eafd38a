"""What a service remembers of a stream, so that it can tell whether the broker still has it.

A *checkpoint* says: the stream held message M under sequence S. Each process opens a new one every second and after
every reconnect; within that second it moves forward with the batches. It is written in the transaction that marks its
batch, so no batch counts as done without a checkpoint at or above its last message. One verified checkpoint of each
hour stays: it tells up to where the broker is intact. See the README for the proof.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from messaging.ids import new_id
from messaging.schema import REPLAY_WINDOW_DAYS
from messaging.sql import statement

RELAY: Final = "relay"
"""Holder of the relay's checkpoints. Those of a consumer have its durable name as their holder."""

_CHECKPOINT_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Position:
    """The highest message of a checkpoint.

    ``recorded_at`` and ``verified_at`` are by the database clock. The first is, for what a relay published, a time
    before the broker had any message of the batch; by default the start of the transaction that writes it. The second
    is when the checkpoint was first found intact.
    """

    holder: str
    stream: str
    checkpoint_id: UUID
    sequence: int
    message_id: UUID
    stream_created_at: datetime | None
    recorded_at: datetime | None = None
    verified_at: datetime | None = None


@dataclass(slots=True)
class _Open:
    checkpoint_id: UUID
    opened_at: float
    epoch: int
    sequence: int
    message_id: UUID


class Checkpoints:
    """The open checkpoints of one holder in this process, one for each stream."""

    def __init__(self, holder: str) -> None:
        self._holder = holder
        self._open: dict[str, _Open] = {}
        self._created: dict[str, tuple[datetime, int]] = {}

    def remember_stream(self, stream: str, created_at: datetime, epoch: int) -> None:
        """Note when ``stream`` was created, as seen under the connection ``epoch``."""
        self._created[stream] = (created_at, epoch)

    def advance(
        self, stream: str, sequence: int, message_id: UUID, epoch: int, recorded_at: datetime | None = None
    ) -> Position:
        """The row to write for a batch whose highest message is (``sequence``, ``message_id``)."""
        now = time.monotonic()
        current = self._open.get(stream)
        if current is None or current.epoch != epoch or now - current.opened_at > _CHECKPOINT_SECONDS:
            current = _Open(new_id(), now, epoch, sequence, message_id)
        elif sequence > current.sequence:
            current = _Open(current.checkpoint_id, current.opened_at, epoch, sequence, message_id)
        self._open[stream] = current
        created_at, seen_in = self._created.get(stream, (None, epoch))
        return Position(
            holder=self._holder,
            stream=stream,
            checkpoint_id=current.checkpoint_id,
            sequence=current.sequence,
            message_id=current.message_id,
            # What was seen before a reconnect may be another stream of the same name.
            stream_created_at=created_at if seen_in == epoch else None,
            recorded_at=recorded_at,
        )


PUT_POSITION: Final = """
    INSERT INTO {schema}.relay_positions AS p
        (holder, stream, checkpoint_id, sequence, message_id, stream_created_at, recorded_at)
    VALUES (:holder, :stream, :checkpoint_id, :sequence, :message_id, :stream_created_at,
            coalesce(CAST(:recorded_at AS timestamptz), now()))
    ON CONFLICT (holder, stream, checkpoint_id) DO UPDATE
    SET sequence = excluded.sequence, message_id = excluded.message_id,
        stream_created_at = excluded.stream_created_at, recorded_at = excluded.recorded_at, verified_at = NULL
    WHERE p.sequence <> excluded.sequence
"""
"""Writes a checkpoint, with the parameters of :func:`position_values`."""


def position_values(position: Position) -> dict[str, object]:
    """Parameters for ``PUT_POSITION``."""
    return {
        "holder": position.holder,
        "stream": position.stream,
        "checkpoint_id": position.checkpoint_id,
        "sequence": position.sequence,
        "message_id": position.message_id,
        "stream_created_at": position.stream_created_at,
        "recorded_at": position.recorded_at,
    }


class Positions:
    """All SQL over ``relay_positions``."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._put = statement(schema, PUT_POSITION)
        self._due = statement(
            schema,
            """
            SELECT holder, stream, checkpoint_id, sequence, message_id, stream_created_at, recorded_at, verified_at
            FROM (
                SELECT *, row_number() OVER (
                    PARTITION BY holder, stream, verified_at IS NULL ORDER BY sequence DESC) AS place
                FROM {schema}.relay_positions
            ) AS ranked
            WHERE verified_at IS NULL OR place = 1
            ORDER BY holder, stream, sequence DESC
            """,
        )
        self._all = statement(
            schema,
            """
            SELECT holder, stream, checkpoint_id, sequence, message_id, stream_created_at, recorded_at, verified_at
            FROM {schema}.relay_positions WHERE holder = :holder AND stream = :stream ORDER BY sequence DESC
            """,
        )
        self._verify = statement(
            schema,
            """
            UPDATE {schema}.relay_positions AS p SET verified_at = now()
            FROM unnest(CAST(:checkpoint_ids AS uuid[]), CAST(:sequences AS bigint[])) AS seen (checkpoint_id, sequence)
            WHERE p.holder = :holder AND p.stream = :stream
              AND p.checkpoint_id = seen.checkpoint_id AND p.sequence = seen.sequence AND p.verified_at IS NULL
            """,
        )
        self._prune = statement(
            schema,
            """
            DELETE FROM {schema}.relay_positions AS p
            USING {schema}.relay_positions AS higher
            WHERE p.holder = :holder AND p.stream = :stream AND p.verified_at IS NOT NULL
              AND higher.holder = p.holder AND higher.stream = p.stream AND higher.verified_at IS NOT NULL
              AND (higher.sequence, higher.checkpoint_id) > (p.sequence, p.checkpoint_id)
              AND (date_trunc('hour', higher.recorded_at) = date_trunc('hour', p.recorded_at)
                   OR p.recorded_at < now() - CAST(:window AS interval))
            """,
        )
        self._forget = statement(
            schema,
            """
            DELETE FROM {schema}.relay_positions
            WHERE holder = :holder AND stream = :stream AND sequence > :above_sequence
            """,
        )
        self._lock = statement(schema, "SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")

    async def put(self, connection: AsyncConnection, position: Position) -> None:
        """Write a checkpoint, in the transaction of its batch."""
        await connection.execute(self._put, position_values(position))

    async def due(self, connection: AsyncConnection) -> list[Position]:
        """The checkpoints to verify, the highest first: the unverified ones, and for each holder and stream the highest
        verified one. It stands for all below it, whatever was published above it since."""
        return [Position(*row) for row in await connection.execute(self._due)]

    async def all(self, connection: AsyncConnection, holder: str, stream: str) -> list[Position]:
        """Every checkpoint of ``holder`` in ``stream``, the highest first."""
        rows = await connection.execute(self._all, {"holder": holder, "stream": stream})
        return [Position(*row) for row in rows]

    async def mark_verified(
        self, connection: AsyncConnection, holder: str, stream: str, positions: Sequence[Position]
    ) -> None:
        """Note that ``positions`` are intact (unless they moved meanwhile), and keep one of each hour."""
        keys: dict[str, object] = {"holder": holder, "stream": stream}
        seen = {
            "checkpoint_ids": [position.checkpoint_id for position in positions],
            "sequences": [position.sequence for position in positions],
        }
        await connection.execute(self._verify, keys | seen)
        await connection.execute(self._prune, keys | {"window": timedelta(days=REPLAY_WINDOW_DAYS)})

    async def forget(self, connection: AsyncConnection, holder: str, stream: str, above_sequence: int) -> None:
        """Drop what ``holder`` knew about ``stream`` above ``above_sequence``."""
        values = {"holder": holder, "stream": stream, "above_sequence": above_sequence}
        await connection.execute(self._forget, values)

    async def lock_recovery(self, connection: AsyncConnection) -> None:
        """Wait until no other replica recovers in this schema; held until the transaction ends."""
        await connection.execute(self._lock, {"name": f"{self._schema}.amnesia_recovery"})
