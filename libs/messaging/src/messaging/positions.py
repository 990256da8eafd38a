"""What a service remembers of a stream, so that it can tell whether the broker still has it.

A *checkpoint* says: the stream held message M under sequence S. Each process opens a new one every second and after
every reconnect; within that second it moves forward with the batches. It is written in the transaction that marks its
batch, so no batch counts as done without a checkpoint at or above its last message. Of each hour the first and the last
verified checkpoint stay: they tell up to where, and from where on, the broker is intact. Of the last ten minutes those
of each minute stay: they tell the auditor what a consumer has passed. See the README for the proof.
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
from messaging.sql import hot_statement, statement

RELAY: Final = "relay"
"""Holder of the relay's checkpoints. Those of a consumer have its durable name as their holder."""

EXPIRY_MARGIN: Final = timedelta(hours=2)
"""What is younger than the stream's retention by more than this cannot have expired, whatever the clocks say."""

KEPT_BY_MINUTE: Final = timedelta(minutes=10)
"""For so long two checkpoints of each minute stay, and then two of each hour."""

_CHECKPOINT_SECONDS: Final = 1.0
_COLUMNS: Final = """
    holder, stream, checkpoint_id, sequence, message_id, stream_created_at, recorded_at, verified_at,
    now() - recorded_at"""


@dataclass(frozen=True, slots=True)
class Position:
    """The highest message of a checkpoint.

    ``recorded_at`` and ``verified_at`` are by the database clock. The first is, for what a relay published, a time
    before the broker had any message of the batch; by default the start of the transaction that writes it. The second
    is when the checkpoint was first found intact. ``age`` is the time since ``recorded_at``, of a checkpoint that was
    read.
    """

    holder: str
    stream: str
    checkpoint_id: UUID
    sequence: int
    message_id: UUID
    stream_created_at: datetime | None
    recorded_at: datetime | None = None
    verified_at: datetime | None = None
    age: timedelta | None = None

    @property
    def key(self) -> tuple[UUID, int]:
        """Which checkpoint it is, and where it was when it was read."""
        return self.checkpoint_id, self.sequence


@dataclass(frozen=True, slots=True)
class Due:
    """The checkpoints to verify, when the server that has them was started, and when they were read."""

    started_at: datetime
    read_at: datetime
    positions: Sequence[Position]


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


def put_position(condition: str = "true") -> str:
    """SQL that writes a checkpoint if ``condition`` holds, with the parameters of :func:`position_values`."""
    return f"""
    INSERT INTO {{schema}}.relay_positions AS p
        (holder, stream, checkpoint_id, sequence, message_id, stream_created_at, recorded_at)
    SELECT CAST(:holder AS text), CAST(:stream AS text), CAST(:checkpoint_id AS uuid), CAST(:sequence AS bigint),
           CAST(:message_id AS uuid), CAST(:stream_created_at AS timestamptz),
           coalesce(CAST(:recorded_at AS timestamptz), now())
    WHERE {condition}
    ON CONFLICT (holder, stream, checkpoint_id) DO UPDATE
    SET sequence = excluded.sequence, message_id = excluded.message_id,
        stream_created_at = excluded.stream_created_at, recorded_at = excluded.recorded_at, verified_at = NULL
    WHERE p.sequence <> excluded.sequence
"""  # noqa: S608 - the condition is a constant


PUT_POSITION: Final = put_position()


def position_values(position: Position) -> dict[str, object]:
    """Parameters for :func:`put_position`."""
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
        self._put = hot_statement(schema, PUT_POSITION)
        self._due = hot_statement(
            schema,
            f"""
            SELECT pg_postmaster_start_time() AS started_at, now() AS read_at, {_COLUMNS}
            FROM (VALUES (1)) AS once LEFT JOIN (
                SELECT *, row_number() OVER (
                    PARTITION BY holder, stream, verified_at IS NULL ORDER BY sequence DESC) AS place,
                    recorded_at > now() - CAST(:young AS interval) AS is_young,
                    row_number() OVER (
                        PARTITION BY holder, stream, recorded_at > now() - CAST(:young AS interval)
                        ORDER BY sequence) AS depth
                FROM {{schema}}.relay_positions
            ) AS ranked ON verified_at IS NULL OR place = 1 OR (holder = '{RELAY}' AND is_young AND depth = 1)
            ORDER BY holder, stream, sequence DESC
            """,  # noqa: S608 - the insertions are constants
        )
        self._all = statement(
            schema,
            f"""
            SELECT {_COLUMNS}
            FROM {{schema}}.relay_positions WHERE holder = :holder AND stream = :stream ORDER BY sequence DESC
            """,  # noqa: S608 - the insertion is a constant
        )
        self._verify = hot_statement(
            schema,
            """
            UPDATE {schema}.relay_positions AS p SET verified_at = now()
            FROM unnest(CAST(:checkpoint_ids AS uuid[]), CAST(:sequences AS bigint[])) AS seen (checkpoint_id, sequence)
            WHERE p.holder = :holder AND p.stream = :stream
              AND p.checkpoint_id = seen.checkpoint_id AND p.sequence = seen.sequence AND p.verified_at IS NULL
            """,
        )
        self._prune = hot_statement(
            schema,
            """
            WITH verified AS (
                SELECT checkpoint_id, recorded_at,
                       row_number() OVER (ORDER BY sequence, checkpoint_id) AS from_first,
                       count(*) OVER () AS all_of_them,
                       row_number() OVER (of_span ORDER BY sequence, checkpoint_id) AS from_first_of_span,
                       count(*) OVER of_span AS all_of_span
                FROM {schema}.relay_positions
                WHERE holder = :holder AND stream = :stream AND verified_at IS NOT NULL
                WINDOW of_span AS (PARTITION BY date_trunc(
                    CASE WHEN recorded_at > now() - CAST(:by_minute AS interval) THEN 'minute' ELSE 'hour' END,
                    recorded_at))
            )
            DELETE FROM {schema}.relay_positions AS p
            USING verified AS v
            WHERE p.holder = :holder AND p.stream = :stream AND p.checkpoint_id = v.checkpoint_id
              AND v.from_first < v.all_of_them
              AND (v.from_first_of_span NOT IN (1, v.all_of_span)
                   OR v.recorded_at < now() - CAST(:window AS interval))
            """,
        )
        self._forget = statement(
            schema,
            """
            DELETE FROM {schema}.relay_positions
            WHERE holder = :holder AND stream = :stream AND sequence > :above_sequence
            """,
        )
        self._highest = statement(
            schema,
            """
            SELECT coalesce(max(sequence), 0) FROM {schema}.relay_positions
            WHERE holder = :holder AND stream = :stream
            """,
        )
        self._lock = hot_statement(schema, "SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")

    async def put(self, connection: AsyncConnection, position: Position) -> None:
        """Write a checkpoint, in the transaction of its batch."""
        await self._put.execute(connection, position_values(position))

    async def due(self, connection: AsyncConnection) -> Due:
        """The checkpoints to verify, the highest first: the unverified ones, and for each holder and stream the highest
        verified one. It stands for all below it, whatever was published above it since. Of the relay also the lowest
        one that cannot have expired: a stream that lost its beginning does not have it."""
        young = timedelta(days=REPLAY_WINDOW_DAYS) - EXPIRY_MARGIN
        rows = await self._due.fetch(connection, {"young": young})
        positions = [Position(*values) for _, _, *values in rows if values[0] is not None]
        return Due(rows[0]["started_at"], rows[0]["read_at"], positions)

    async def all(self, connection: AsyncConnection, holder: str, stream: str) -> list[Position]:
        """Every checkpoint of ``holder`` in ``stream``, the highest first."""
        rows = await connection.execute(self._all, {"holder": holder, "stream": stream})
        return [Position(*row) for row in rows]

    async def highest(self, connection: AsyncConnection, holder: str, stream: str) -> int:
        """The highest sequence of ``stream`` that ``holder`` has committed; 0 if there is none."""
        values = {"holder": holder, "stream": stream}
        return int((await connection.execute(self._highest, values)).scalar_one())

    async def mark_verified(
        self, connection: AsyncConnection, holder: str, stream: str, positions: Sequence[Position]
    ) -> None:
        """Note that ``positions`` are intact (unless they moved meanwhile), and keep two of each hour and minute."""
        keys: dict[str, object] = {"holder": holder, "stream": stream}
        seen = {
            "checkpoint_ids": [position.checkpoint_id for position in positions],
            "sequences": [position.sequence for position in positions],
        }
        await self._verify.execute(connection, keys | seen)
        kept = {"window": timedelta(days=REPLAY_WINDOW_DAYS), "by_minute": KEPT_BY_MINUTE}
        await self._prune.execute(connection, keys | kept)

    async def forget(self, connection: AsyncConnection, holder: str, stream: str, above_sequence: int) -> None:
        """Drop what ``holder`` knew about ``stream`` above ``above_sequence``."""
        values = {"holder": holder, "stream": stream, "above_sequence": above_sequence}
        await connection.execute(self._forget, values)

    async def lock_verification(self, connection: AsyncConnection, stream: str) -> None:
        """Wait until no other replica looks into ``stream``; held until the transaction ends."""
        await self._lock.execute(connection, {"name": f"{self._schema}.verification.{stream}"})

    async def lock_recovery(self, connection: AsyncConnection) -> None:
        """Wait until no other replica recovers in this schema; held until the transaction ends."""
        await self._lock.execute(connection, {"name": f"{self._schema}.amnesia_recovery"})
