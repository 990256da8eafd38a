"""What a service remembers of a stream's order, so that it can tell whether the broker still remembers it too.

A *checkpoint* says: the stream held message M under sequence S. Each process opens a new one every second and after
every reconnect; within that second it moves forward with the batches. The row is written in the transaction that marks
its batch, so no batch counts as done without a checkpoint at or above its last message. See the README for the proof.
"""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from messaging.ids import new_id
from messaging.sql import statement

RELAY: Final = "relay"
"""Holder of what was published; consumers hold theirs under their durable name."""

_CHECKPOINT_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Position:
    """The highest message of a checkpoint."""

    holder: str
    stream: str
    checkpoint_id: UUID
    sequence: int
    message_id: UUID
    stream_created_at: datetime | None


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

    def advance(self, stream: str, sequence: int, message_id: UUID, epoch: int) -> Position:
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
        )


class Positions:
    """All SQL over ``relay_positions``."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._put = statement(
            schema,
            """
            INSERT INTO {schema}.relay_positions
                (holder, stream, checkpoint_id, sequence, message_id, stream_created_at)
            VALUES (:holder, :stream, :checkpoint_id, :sequence, :message_id, :stream_created_at)
            ON CONFLICT (holder, stream, checkpoint_id) DO UPDATE
            SET sequence = excluded.sequence, message_id = excluded.message_id,
                stream_created_at = excluded.stream_created_at, recorded_at = now()
            """,
        )
        self._list = statement(
            schema,
            """
            SELECT holder, stream, checkpoint_id, sequence, message_id, stream_created_at
            FROM {schema}.relay_positions ORDER BY holder, stream, sequence DESC
            """,
        )
        self._prune = statement(
            schema,
            """
            DELETE FROM {schema}.relay_positions
            WHERE holder = :holder AND stream = :stream AND checkpoint_id = :checkpoint_id AND sequence = :sequence
            """,
        )
        self._forget = statement(
            schema, "DELETE FROM {schema}.relay_positions WHERE holder = :holder AND stream = :stream"
        )
        self._lock = statement(schema, "SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")

    async def put(self, connection: AsyncConnection, position: Position) -> None:
        """Write a checkpoint, in the transaction of its batch."""
        await connection.execute(
            self._put,
            {
                "holder": position.holder,
                "stream": position.stream,
                "checkpoint_id": position.checkpoint_id,
                "sequence": position.sequence,
                "message_id": position.message_id,
                "stream_created_at": position.stream_created_at,
            },
        )

    async def all(self, connection: AsyncConnection) -> list[Position]:
        """Every checkpoint, the highest first for each holder and stream."""
        return [Position(*row) for row in await connection.execute(self._list)]

    async def prune(self, connection: AsyncConnection, position: Position) -> None:
        """Drop a verified checkpoint that has not moved since."""
        await connection.execute(
            self._prune,
            {
                "holder": position.holder,
                "stream": position.stream,
                "checkpoint_id": position.checkpoint_id,
                "sequence": position.sequence,
            },
        )

    async def forget(self, connection: AsyncConnection, holder: str, stream: str) -> None:
        """Drop everything that ``holder`` knew about ``stream``."""
        await connection.execute(self._forget, {"holder": holder, "stream": stream})

    async def lock_recovery(self, connection: AsyncConnection) -> None:
        """Wait until no other replica recovers in this schema; held until the transaction ends."""
        await connection.execute(self._lock, {"name": f"{self._schema}.amnesia_recovery"})
