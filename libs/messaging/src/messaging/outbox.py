"""All SQL over ``outbox_messages``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from messaging.positions import PUT_POSITION, Position, position_values, put_position
from messaging.schema import REPLAY_WINDOW_DAYS
from messaging.sql import hot_statement, statement
from service_runtime.statements import Statement


class Outgoing(msgspec.Struct, frozen=True):
    """A message that waits for the commit of its transaction."""

    message_id: UUID
    subject: str
    stream: str
    payload: bytes
    correlation_id: UUID
    causation_id: UUID | None
    traceparent: str | None


class Unpublished(Outgoing, frozen=True):
    """A committed message that waits for the broker."""

    occurred_at: datetime
    created_at: datetime


# Both times of a row are by default the time of its transaction.
ADD_MESSAGES: Final = """
        INSERT INTO {schema}.outbox_messages
            (message_id, subject, stream, payload, correlation_id, causation_id, traceparent)
        SELECT * FROM unnest(
            CAST(:message_ids AS uuid[]), CAST(:subjects AS text[]), CAST(:streams AS text[]),
            CAST(:payloads AS bytea[]), CAST(:correlation_ids AS uuid[]), CAST(:causation_ids AS uuid[]),
            CAST(:traceparents AS text[]))
            AS message (message_id, subject, stream, payload, correlation_id, causation_id, traceparent)
"""
"""Writes messages, with the parameters of :func:`message_values`; a condition may follow."""
_ADDED: Final = f"added AS ({ADD_MESSAGES})"
_ALWAYS: Final = "true"
_IS_COMPARED: Final = "coalesce(pg_postmaster_start_time() = CAST(:server AS timestamptz), true)"


@dataclass(frozen=True, slots=True)
class Writes:
    """What a service writes with the outbox in one statement.

    ``parts`` are those of a WITH, and none is called ``added`` or ``position``. ``result`` are columns of one row.
    A message is written if ``when`` holds, a condition on the row ``message``: where it does not, what it announces did
    not happen.
    No parameter may be called like one of :data:`ADD_MESSAGES` if messages are published before, or like one of
    ``PUT_POSITION`` if a checkpoint is: then ValueError is raised.
    """

    parts: str
    result: str
    when: str = _ALWAYS


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A message and the sequence under which its stream stored it."""

    row: Unpublished
    sequence: int


@dataclass(frozen=True, slots=True)
class Left:
    """Whether a row of some age is not marked, and the consumers of which an operator wants dead letters replayed.

    Of the relay, these are messages that the broker refused.
    """

    unpublished: bool
    replays: Sequence[str]


class Outbox:
    """The outbox of one schema."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._add = hot_statement(schema, f"WITH {_ADDED} SELECT now()")
        self._add_with_position = hot_statement(schema, f"WITH position AS ({PUT_POSITION}), {_ADDED} SELECT now()")
        self._lock_unpublished = statement(
            schema,
            """
            SELECT message_id, subject, stream, payload, correlation_id, causation_id, traceparent, occurred_at,
                   created_at
            FROM {schema}.outbox_messages
            WHERE published_at IS NULL AND created_at <= now() - make_interval(secs => :older_than_seconds)
              AND stream <> ALL(CAST(:paused_streams AS text[])) AND subject <> ALL(CAST(:paused_subjects AS text[]))
            ORDER BY message_id LIMIT :limit FOR UPDATE SKIP LOCKED
            """,
        )
        self._find_left = hot_statement(
            schema,
            """
            SELECT EXISTS (
                SELECT FROM {schema}.outbox_messages
                WHERE published_at IS NULL AND created_at <= now() - make_interval(secs => :older_than_seconds)),
                ARRAY (
                SELECT DISTINCT consumer FROM {schema}.dead_letters
                WHERE replay_requested_at IS NOT NULL AND replayed_at IS NULL)
            """,
        )
        self._mark = hot_statement(
            schema,
            f"""
            WITH position AS ({put_position(_IS_COMPARED)}), marked AS (
                UPDATE {{schema}}.outbox_messages AS o
                SET published_at = clock_timestamp(), published_sequence = acked.sequence
                FROM unnest(CAST(:message_ids AS uuid[]), CAST(:sequences AS bigint[]))
                    AS acked (message_id, sequence)
                WHERE {_IS_COMPARED} AND o.message_id = acked.message_id AND o.published_at IS NULL
                  AND o.created_at BETWEEN :oldest AND :newest)
            SELECT {_IS_COMPARED}
            """,  # noqa: S608 - the insertions are constants
        )
        self._remove = statement(
            schema,
            "DELETE FROM {schema}.outbox_messages WHERE message_id = :message_id AND created_at = :created_at",
        )
        self._forget = statement(
            schema,
            """
            UPDATE {schema}.outbox_messages SET published_at = NULL, published_sequence = NULL
            WHERE stream = :stream AND published_at IS NOT NULL AND published_sequence > :above_sequence
              AND created_at > now() - make_interval(hours => :hours_ago + 1)
              AND created_at <= now() - make_interval(hours => :hours_ago)
            """,
        )
        self._published_sequence = statement(
            schema,
            """
            SELECT CASE WHEN count(*) = 0 THEN 0 ELSE max(published_sequence) END
            FROM {schema}.outbox_messages WHERE correlation_id = :correlation_id AND subject = :subject
            """,
        )
        self._backlog = statement(
            schema,
            """
            SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)
            FROM {schema}.outbox_messages WHERE published_at IS NULL
            """,
        )

    async def add(
        self, connection: AsyncConnection, messages: Sequence[Outgoing], position: Position | None = None
    ) -> list[Unpublished]:
        """Write all ``messages``, and a checkpoint if one is given, with one statement; returns them as rows."""
        values = message_values(messages)
        if position is None:
            [[now]] = await self._add.fetch(connection, values)
        else:
            [[now]] = await self._add_with_position.fetch(connection, values | position_values(position))
        return [stored(message, now) for message in messages]

    async def add_with(
        self,
        connection: AsyncConnection,
        messages: Sequence[Outgoing],
        position: Position | None,
        writes: Writes,
        values: Mapping[str, object],
        *,
        is_last: bool = False,
    ) -> tuple[list[Unpublished], Sequence[Any]]:
        """:meth:`add` and ``writes``, with one statement; returns the rows, and the result of ``writes``.

        ``is_last``: nothing follows in the transaction but its commit.
        """
        sent = dict(values)
        if messages:
            sent |= message_values(messages)
        if position is not None:
            sent |= position_values(position)
        together = _together(self._schema, writes, added=bool(messages), positioned=position is not None)
        fetch = together.fetch_last if is_last else together.fetch
        [[now, written, *result]] = await fetch(connection, sent)
        if written is not None:
            messages = [message for message in messages if message.message_id in written]
        return [stored(message, now) for message in messages], result

    async def lock_unpublished(
        self,
        connection: AsyncConnection,
        limit: int,
        older_than_seconds: float,
        paused_streams: Sequence[str],
        paused_subjects: Sequence[str],
    ) -> list[Unpublished]:
        """Lock up to ``limit`` unpublished rows by their state, past those that another relay has locked."""
        values = {
            "limit": limit,
            "older_than_seconds": older_than_seconds,
            "paused_streams": list(paused_streams),
            "paused_subjects": list(paused_subjects),
        }
        rows = await connection.execute(self._lock_unpublished, values)
        return [Unpublished(*row) for row in rows]

    async def find_left(self, connection: AsyncConnection, older_than_seconds: float) -> Left:
        """What there is to do besides what was just committed. It is asked all the time: one statement."""
        (left,) = await self._find_left.fetch(connection, {"older_than_seconds": older_than_seconds})
        return Left(*left)

    async def mark_published(
        self,
        connection: AsyncConnection,
        acknowledged: Sequence[Acknowledged],
        position: Position,
        server: datetime | None,
    ) -> bool:
        """Record, with one statement, that the broker has these rows of one stream, and how far it has got with them.

        Harmless if it was recorded before. False, and nothing is recorded, if another ``server`` answers than the one
        that was started then.
        """
        times = [entry.row.created_at for entry in acknowledged]
        [[is_compared]] = await self._mark.fetch(
            connection,
            {
                "message_ids": [entry.row.message_id for entry in acknowledged],
                "sequences": [entry.sequence for entry in acknowledged],
                "oldest": min(times),
                "newest": max(times),
                "server": server,
                **position_values(position),
            },
        )
        return bool(is_compared)

    async def remove(self, connection: AsyncConnection, row: Unpublished) -> None:
        """Take out a row that moves to the dead letters."""
        await connection.execute(self._remove, {"message_id": row.message_id, "created_at": row.created_at})

    async def forget_published(self, connection: AsyncConnection, stream: str, above_sequence: int) -> int:
        """Make the rows of ``stream`` inside the replay window unpublished that were stored above ``above_sequence``.

        Goes hour by hour, so that no statement takes too long. Returns how many rows there were.
        """
        count = 0
        for hours_ago in range(REPLAY_WINDOW_DAYS * 24):
            values = {"stream": stream, "above_sequence": above_sequence, "hours_ago": hours_ago}
            count += (await connection.execute(self._forget, values)).rowcount
        return count

    async def published_sequence(self, connection: AsyncConnection, correlation_id: UUID, subject: str) -> int | None:
        """Under which sequence a message was published; None if it waits, and 0 if it has left the outbox since."""
        values = {"correlation_id": correlation_id, "subject": subject}
        sequence: int | None = (await connection.execute(self._published_sequence, values)).scalar_one()
        return sequence

    async def backlog(self, connection: AsyncConnection) -> tuple[int, float]:
        """Number of unpublished rows and the age of the oldest in seconds."""
        count, oldest = (await connection.execute(self._backlog)).one()
        return int(count), float(oldest)


def message_values(messages: Sequence[Outgoing]) -> dict[str, object]:
    return {
        "message_ids": [message.message_id for message in messages],
        "subjects": [message.subject for message in messages],
        "streams": [message.stream for message in messages],
        "payloads": [message.payload for message in messages],
        "correlation_ids": [message.correlation_id for message in messages],
        "causation_ids": [message.causation_id for message in messages],
        "traceparents": [message.traceparent for message in messages],
    }


@lru_cache(maxsize=64)
def _together(schema: str, writes: Writes, *, added: bool, positioned: bool) -> Statement:
    parts = []
    if positioned:
        parts.append(f"position AS ({PUT_POSITION})")
    written = "NULL"
    if added and writes.when == _ALWAYS:
        parts.append(_ADDED)
    elif added:
        parts.append(f"added AS ({ADD_MESSAGES} WHERE {writes.when} RETURNING message_id)")
        written = "ARRAY(SELECT message_id FROM added)"
    ours = Statement(", ".join(parts)).names
    if both := sorted({*Statement(writes.parts).names}.intersection(ours)):
        raise ValueError(f"the outbox or the checkpoint would give their values to {', '.join(both)}")
    return hot_statement(schema, f"WITH {', '.join([writes.parts, *parts])} SELECT now(), {written}, {writes.result}")


def stored(message: Outgoing, now: datetime) -> Unpublished:
    """The row of a message that was written by a transaction which began ``now``."""
    return Unpublished(
        message.message_id,
        message.subject,
        message.stream,
        message.payload,
        message.correlation_id,
        message.causation_id,
        message.traceparent,
        now,
        now,
    )
