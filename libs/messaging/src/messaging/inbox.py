"""All SQL over ``inbox_messages`` and ``delivery_attempts``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from messaging.ids import time_of
from messaging.positions import PUT_POSITION, Position, position_values
from messaging.sql import hot_statement, statement

UNDATED: Final = date(1970, 1, 1)
"""The day of ids that carry no time; it has no partition, so they are stored in DEFAULT and expire by receipt."""


def message_day(message_id: UUID) -> date:
    """The UTC day inside a UUIDv7, and a fixed day for any other id: a function of the id alone."""
    time = time_of(message_id)
    return UNDATED if time is None else time.date()


_INSERT: Final = """
    INSERT INTO {schema}.inbox_messages (consumer, message_id, message_day)
    SELECT :consumer, ids.message_id, ids.message_day
    FROM unnest(CAST(:message_ids AS uuid[]), CAST(:message_days AS date[])) AS ids (message_id, message_day)
    ON CONFLICT DO NOTHING RETURNING message_id
"""


@dataclass(frozen=True, slots=True)
class Deferral:
    """How long and how often a message has been sent back because it was early."""

    deferrals: int
    waited: timedelta


class Inbox:
    """The inbox of one durable consumer."""

    def __init__(self, schema: str, consumer: str) -> None:
        self._consumer = consumer
        # Ids are inserted sorted: two replicas with the same messages wait for each other instead of running into a
        # deadlock.
        self._insert = statement(schema, _INSERT)
        self._receive = hot_statement(schema, f"WITH position AS ({PUT_POSITION}) {_INSERT}")
        self._is_known = statement(
            schema,
            """
            SELECT EXISTS (SELECT FROM {schema}.inbox_messages
                           WHERE consumer = :consumer AND message_id = :message_id AND message_day = :message_day)
                OR EXISTS (SELECT FROM {schema}.dead_letters
                           WHERE consumer = :consumer AND message_id = :message_id)
            """,
        )
        self._delete = statement(
            schema,
            """
            DELETE FROM {schema}.inbox_messages AS i
            USING unnest(CAST(:message_ids AS uuid[]), CAST(:message_days AS date[])) AS ids (message_id, message_day)
            WHERE i.consumer = :consumer AND i.message_id = ids.message_id AND i.message_day = ids.message_day
            """,
        )
        self._defer = statement(
            schema,
            """
            INSERT INTO {schema}.delivery_attempts AS d (consumer, message_id, deferrals, last_reason)
            SELECT :consumer, early.message_id, 1, early.reason
            FROM unnest(CAST(:message_ids AS uuid[]), CAST(:reasons AS text[])) AS early (message_id, reason)
            ORDER BY early.message_id
            ON CONFLICT (consumer, message_id) DO UPDATE
            SET deferrals = d.deferrals + 1, last_at = now(), last_reason = excluded.last_reason,
                -- Nothing waited while nothing was delivered: an outage does not count.
                first_at = d.first_at + greatest(now() - d.last_at - interval '1 minute', interval '0')
            RETURNING message_id, deferrals, now() - first_at
            """,
        )
        self._fail = statement(
            schema,
            """
            INSERT INTO {schema}.delivery_attempts AS d (consumer, message_id, failures, last_reason)
            VALUES (:consumer, :message_id, 1, :reason)
            ON CONFLICT (consumer, message_id) DO UPDATE
            SET failures = d.failures + 1, last_at = now(), last_reason = excluded.last_reason
            RETURNING failures
            """,
        )
        self._clear_attempts = statement(
            schema,
            """
            DELETE FROM {schema}.delivery_attempts
            WHERE consumer = :consumer AND message_id = ANY(CAST(:message_ids AS uuid[]))
            """,
        )

    async def receive(self, connection: AsyncConnection, message_ids: Sequence[UUID], position: Position) -> set[UUID]:
        """:meth:`add_new`, and write the checkpoint of the batch with the same statement."""
        rows = await self._receive.fetch(connection, self._keys(message_ids) | position_values(position))
        return {row[0] for row in rows}

    async def add_new(self, connection: AsyncConnection, message_ids: Sequence[UUID]) -> set[UUID]:
        """Mark ``message_ids`` as received; returns those that were not received before."""
        rows = await connection.execute(self._insert, self._keys(message_ids))
        return {row.message_id for row in rows}

    async def is_known(self, connection: AsyncConnection, message_id: UUID) -> bool:
        """Whether this message was received, or given up on."""
        values = {"consumer": self._consumer, "message_id": message_id, "message_day": message_day(message_id)}
        return bool((await connection.execute(self._is_known, values)).scalar())

    async def remove(self, connection: AsyncConnection, message_ids: Sequence[UUID]) -> None:
        """Take back the mark, for messages that are to be delivered again."""
        await connection.execute(self._delete, self._keys(message_ids))

    async def record_deferrals(self, connection: AsyncConnection, reasons: Mapping[UUID, str]) -> dict[UUID, Deferral]:
        """Count one more deferral for each message."""
        rows = await connection.execute(
            self._defer,
            {"consumer": self._consumer, "message_ids": list(reasons), "reasons": list(reasons.values())},
        )
        return {message_id: Deferral(deferrals, waited) for message_id, deferrals, waited in rows}

    async def record_failure(self, connection: AsyncConnection, message_id: UUID, reason: str) -> int:
        """Count one more failure of the handler; returns how many there were."""
        values = {"consumer": self._consumer, "message_id": message_id, "reason": reason}
        failures: int = (await connection.execute(self._fail, values)).scalar_one()
        return failures

    async def clear_attempts(self, connection: AsyncConnection, message_ids: Sequence[UUID]) -> None:
        """Forget the deliveries of messages that are handled or dead-lettered."""
        await connection.execute(self._clear_attempts, {"consumer": self._consumer, "message_ids": list(message_ids)})

    def _keys(self, message_ids: Sequence[UUID]) -> dict[str, object]:
        ordered = sorted(message_ids)
        return {
            "consumer": self._consumer,
            "message_ids": ordered,
            "message_days": [message_day(message_id) for message_id in ordered],
        }
