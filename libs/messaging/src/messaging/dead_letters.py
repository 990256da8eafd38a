"""Messages that were given up on, and the command with which operators list and replay them.

    python -m messaging.dead_letters list|show|replay|discard --dsn postgresql://... --schema billing

A replay is a request: the row is marked, and the running service feeds the message through the same path as a
delivery (inbox, handler, outbox, one transaction). A message that the broker refused goes back to the outbox.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from messaging.sql import hot_statement, statement
from service_runtime.database import engine_for


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message that was given up on. ``consumer`` is the durable that received it, or ``relay``."""

    consumer: str
    message_id: UUID
    subject: str
    stream: str
    payload: bytes
    headers: Mapping[str, str]
    correlation_id: UUID | None
    reason: str
    error: str
    deliveries: int


def _storable(headers: Mapping[str, str]) -> str:
    """As JSON, without the one character that the database refuses."""
    return msgspec.json.encode(
        {name: value.replace("\0", "\N{REPLACEMENT CHARACTER}") for name, value in headers.items()}
    ).decode()


def _values(letter: DeadLetter) -> dict[str, Any]:
    values = {name: getattr(letter, name) for name in DeadLetter.__dataclass_fields__}
    return values | {"headers": _storable(letter.headers)}


class DeadLetters:
    """All SQL over ``dead_letters``."""

    def __init__(self, schema: str) -> None:
        self._add = statement(
            schema,
            """
            INSERT INTO {schema}.dead_letters AS d
                (consumer, message_id, subject, stream, payload, headers, correlation_id, reason, error, deliveries)
            VALUES (:consumer, :message_id, :subject, :stream, :payload, CAST(CAST(:headers AS text) AS jsonb),
                    :correlation_id, :reason, :error, :deliveries)
            ON CONFLICT (consumer, message_id) DO UPDATE
            SET reason = excluded.reason, error = excluded.error, dead_at = now(), replayed_at = NULL,
                replay_requested_at = NULL, deliveries = d.deliveries + excluded.deliveries
            """,
        )
        self._lock_requested = statement(
            schema,
            """
            SELECT consumer, message_id, subject, stream, payload, CAST(headers AS text), correlation_id, reason, error,
                   deliveries
            FROM {schema}.dead_letters
            WHERE consumer = :consumer AND replay_requested_at IS NOT NULL AND replayed_at IS NULL
            ORDER BY replay_requested_at, message_id LIMIT 1 FOR UPDATE SKIP LOCKED
            """,
        )
        self._requested = hot_statement(
            schema,
            """
            SELECT DISTINCT consumer FROM {schema}.dead_letters
            WHERE replay_requested_at IS NOT NULL AND replayed_at IS NULL
            """,
        )
        self._replayed = statement(
            schema,
            """
            UPDATE {schema}.dead_letters SET replayed_at = now()
            WHERE consumer = :consumer AND message_id = :message_id
            """,
        )
        self._replay_failed = statement(
            schema,
            """
            UPDATE {schema}.dead_letters
            SET replay_requested_at = NULL, replay_failures = replay_failures + 1, error = :error
            WHERE consumer = :consumer AND message_id = :message_id
            """,
        )
        self._request = statement(
            schema,
            """
            UPDATE {schema}.dead_letters SET replay_requested_at = now()
            WHERE replayed_at IS NULL AND discarded_at IS NULL
              AND (:everything OR message_id = ANY(CAST(:message_ids AS uuid[])))
              AND (CAST(:consumer AS text) IS NULL OR consumer = :consumer)
              AND (CAST(:subject AS text) IS NULL OR subject = :subject)
            RETURNING message_id
            """,
        )
        self._discard = statement(
            schema,
            """
            UPDATE {schema}.dead_letters
            SET discarded_at = now(), discarded_by = :actor, discard_reason = :reason, replay_requested_at = NULL
            WHERE message_id = ANY(CAST(:message_ids AS uuid[])) AND replayed_at IS NULL AND discarded_at IS NULL
              AND (CAST(:consumer AS text) IS NULL OR consumer = :consumer)
            RETURNING message_id
            """,
        )
        self._redeliver = statement(
            schema,
            """
            INSERT INTO {schema}.dead_letters AS d
                (consumer, message_id, subject, stream, payload, headers, correlation_id, reason, error, deliveries,
                 replay_requested_at)
            VALUES (:consumer, :message_id, :subject, :stream, :payload, CAST(CAST(:headers AS text) AS jsonb),
                    :correlation_id, :reason, :error, :deliveries, now())
            ON CONFLICT (consumer, message_id) DO UPDATE SET replay_requested_at = now(), replayed_at = NULL
            WHERE d.discarded_at IS NULL
            RETURNING message_id
            """,
        )
        self._list = statement(
            schema,
            """
            SELECT consumer, message_id, subject, reason, error, deliveries, dead_at, replay_requested_at,
                   replay_failures, replayed_at, discarded_at, discarded_by, discard_reason
            FROM {schema}.dead_letters
            WHERE (:everything OR (replayed_at IS NULL AND discarded_at IS NULL))
              AND (CAST(:consumer AS text) IS NULL OR consumer = :consumer)
              AND (CAST(:subject AS text) IS NULL OR subject = :subject)
            ORDER BY dead_at DESC LIMIT :limit
            """,
        )
        self._show = statement(
            schema, "SELECT * FROM {schema}.dead_letters WHERE message_id = :message_id ORDER BY consumer"
        )

    async def add(self, connection: AsyncConnection, letter: DeadLetter) -> None:
        """Record that a message is given up on. Repeating it updates the record."""
        await connection.execute(self._add, _values(letter))

    async def request_redelivery(self, connection: AsyncConnection, letter: DeadLetter) -> bool:
        """Have ``letter`` handled as if it were delivered now; False if it was discarded."""
        return (await connection.execute(self._redeliver, _values(letter))).one_or_none() is not None

    async def discard(
        self, connection: AsyncConnection, message_ids: list[UUID], consumer: str | None, actor: str, reason: str
    ) -> list[UUID]:
        """Close dead letters that no replay can help; returns those that were open."""
        values = {"message_ids": message_ids, "consumer": consumer, "actor": actor, "reason": reason}
        return list((await connection.execute(self._discard, values)).scalars())

    async def requested(self, connection: AsyncConnection) -> set[str]:
        """The consumers of which an operator wants something replayed."""
        return {consumer for (consumer,) in await self._requested.fetch(connection, {})}

    async def lock_requested(self, connection: AsyncConnection, consumer: str) -> DeadLetter | None:
        """One message of ``consumer`` that an operator wants replayed, past those that another replica has locked."""
        row = (await connection.execute(self._lock_requested, {"consumer": consumer})).one_or_none()
        if row is None:
            return None
        fields = dict(zip(DeadLetter.__dataclass_fields__, row, strict=True))
        return DeadLetter(**fields | {"headers": msgspec.json.decode(fields["headers"])})

    async def mark_replayed(self, connection: AsyncConnection, letter: DeadLetter) -> None:
        """The message has taken effect after all."""
        await connection.execute(self._replayed, {"consumer": letter.consumer, "message_id": letter.message_id})

    async def mark_replay_failed(self, connection: AsyncConnection, letter: DeadLetter, error: str) -> None:
        """The replay failed, too: the row waits until it is requested again."""
        await connection.execute(
            self._replay_failed, {"consumer": letter.consumer, "message_id": letter.message_id, "error": error}
        )

    async def request_replay(
        self,
        connection: AsyncConnection,
        message_ids: list[UUID] | None,
        consumer: str | None = None,
        subject: str | None = None,
    ) -> list[UUID]:
        """Ask for a replay of ``message_ids`` (None: of all that match); returns those that will be replayed."""
        rows = await connection.execute(
            self._request,
            {
                "everything": message_ids is None,
                "message_ids": message_ids or [],
                "consumer": consumer,
                "subject": subject,
            },
        )
        return [row.message_id for row in rows]

    async def summaries(
        self, connection: AsyncConnection, consumer: str | None, subject: str | None, everything: bool, limit: int
    ) -> list[dict[str, Any]]:
        """Summaries, the newest first; without ``everything`` only those that are open."""
        values = {"consumer": consumer, "subject": subject, "everything": everything, "limit": limit}
        return [dict(row._mapping) for row in await connection.execute(self._list, values)]

    async def show(self, connection: AsyncConnection, message_id: UUID) -> list[dict[str, Any]]:
        """Everything about one message, once for each consumer that gave up on it."""
        return [dict(row._mapping) for row in await connection.execute(self._show, {"message_id": message_id})]


async def _run(options: argparse.Namespace) -> int:
    engine = engine_for(options.dsn, application_name="reelhouse-dead-letters")
    letters = DeadLetters(options.schema)
    try:
        async with engine.begin() as connection:
            if options.command == "list":
                rows = await letters.summaries(
                    connection, options.consumer, options.subject, options.all, options.limit
                )
                return _print(rows)
            if options.command == "show":
                rows = await letters.show(connection, options.message_id)
                return _print([row | {"payload": row["payload"].decode(errors="replace")} for row in rows])
            if options.command == "discard":
                discarded = await letters.discard(
                    connection, options.message_ids, options.consumer, options.actor, options.reason
                )
                return _print([{"message_id": message_id, "discarded_by": options.actor} for message_id in discarded])
            chosen = None if options.all else options.message_ids
            requested = await letters.request_replay(connection, chosen, options.consumer, options.subject)
            return _print([{"message_id": message_id, "replay": "requested"} for message_id in requested])
    finally:
        await engine.dispose()


def _print(rows: list[dict[str, Any]]) -> int:
    """One JSON object a line; exit status 1, and a word on standard error, if there is nothing to show."""
    for row in rows:
        sys.stdout.write(json.dumps(row, default=str) + "\n")
    if not rows:
        sys.stderr.write("no dead letter matches\n")
    return 0 if rows else 1


def main(arguments: list[str]) -> int:
    """Parse ``arguments``, do it, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m messaging.dead_letters", description="Dead letters of a service")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in (
        ("list", "the newest dead letters, one JSON object a line"),
        ("show", "one message with payload and headers"),
        ("replay", "ask the running service to try again"),
        ("discard", "close dead letters that no replay can help"),
    ):
        command = commands.add_parser(name, help=purpose)
        command.add_argument("--dsn", required=True, help="connection string of the service's runtime role")
        command.add_argument("--schema", required=True)
        if name == "show":
            command.add_argument("message_id", type=UUID)
            continue
        command.add_argument("--consumer")
        if name == "discard":
            command.add_argument("message_ids", nargs="+", type=UUID)
            command.add_argument("--actor", required=True, help="who decides")
            command.add_argument("--reason", required=True, help="why the message needs no effect")
            continue
        command.add_argument("--subject")
        command.add_argument("--all", action="store_true", help="list: the closed ones too; replay: all that match")
        if name == "list":
            command.add_argument("--limit", type=int, default=50)
        else:
            command.add_argument("message_ids", nargs="*", type=UUID)
    options = parser.parse_args(arguments)
    if options.command == "replay" and bool(options.message_ids) == options.all:
        parser.error("name message ids, or say --all")
    return asyncio.run(_run(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
