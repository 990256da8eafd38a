"""Delivers published messages to one of their readers again, from the outbox of the service that published them.

    python -m messaging.redelivery --dsn READER --schema generation --outbox-dsn AUDITOR --actor ada MESSAGE_ID...
    python -m messaging.redelivery ... --subject billing.event.credits-reserved.v1 --since 2026-11-26T10:00:00Z

For a message that the broker lost, or that a reader lost when its database was restored. A redelivery is a dead letter
that is marked for replay at once: the running service feeds it through the same path as a delivery (inbox, handler,
outbox, one transaction). So a message that the reader has received already takes no second effect.
"""

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.message import SERVICES, Message, Service
from contracts.permissions import durable_name
from contracts.registry import consumed_by
from messaging.dead_letters import DeadLetter, DeadLetters
from messaging.outbox import Unpublished
from messaging.relay import message_headers
from messaging.sql import statement
from service_runtime.database import engine_for

MOST_MESSAGES: Final = 10_000
"""Of one producer in one command. For the rest of a longer time, name a later ``--since``."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which messages are delivered again: those with these ids, or those on ``subject`` of a time."""

    message_ids: tuple[UUID, ...]
    subject: str | None
    since: datetime | None
    until: datetime | None


async def redeliver(
    outboxes: AsyncEngine, reader_engine: AsyncEngine, reader: Service, selection: Selection, actor: str
) -> list[UUID]:
    """Have the selected messages that ``reader`` reads delivered to it again; returns their ids, oldest first.

    ``outboxes`` may read the producers' schemas, as the auditor may. Discarded messages stay discarded.
    """
    read = [one for one in consumed_by(reader) if selection.subject in (None, one.subject)]
    letters: list[DeadLetter] = []
    async with outboxes.connect() as connection:
        for producer in sorted({producer for message in read for producer in message.producers}):
            rows = await _find_published(connection, producer, read, selection)
            letters += [_letter(reader, producer, row, actor) for row in rows]
    async with reader_engine.begin() as connection:
        return [
            letter.message_id for letter in letters if await DeadLetters(reader).request_redelivery(connection, letter)
        ]


async def _find_published(
    connection: AsyncConnection, producer: Service, read: list[type[Message]], selection: Selection
) -> list[Unpublished]:
    query = statement(
        producer,
        """
        SELECT message_id, subject, stream, payload, correlation_id, causation_id, traceparent, occurred_at, created_at
        FROM {schema}.outbox_messages
        WHERE published_at IS NOT NULL AND subject = ANY(CAST(:subjects AS text[]))
          AND (CAST(:message_ids AS uuid[]) IS NULL OR message_id = ANY(CAST(:message_ids AS uuid[])))
          AND (CAST(:since AS timestamptz) IS NULL OR created_at >= :since)
          AND (CAST(:until AS timestamptz) IS NULL OR created_at < :until)
        ORDER BY message_id LIMIT :limit
        """,
    )
    rows = await connection.execute(
        query,
        {
            "subjects": [message.subject for message in read if producer in message.producers],
            "message_ids": list(selection.message_ids) or None,
            "since": selection.since,
            "until": selection.until,
            "limit": MOST_MESSAGES,
        },
    )
    return [Unpublished(*row) for row in rows]


def _letter(reader: Service, producer: Service, row: Unpublished, actor: str) -> DeadLetter:
    return DeadLetter(
        consumer=durable_name(reader, row.stream),
        message_id=row.message_id,
        subject=row.subject,
        stream=row.stream,
        payload=row.payload,
        headers=message_headers(producer, row),
        correlation_id=row.correlation_id,
        reason="redelivery",
        error=f"redelivery requested by {actor}",
        deliveries=0,
    )


async def _run(options: argparse.Namespace) -> int:
    selection = Selection(tuple(options.message_ids), options.subject, options.since, options.until)
    outboxes, reader_engine = (_engine(dsn) for dsn in (options.outbox_dsn, options.dsn))
    try:
        requested = await redeliver(outboxes, reader_engine, options.schema, selection, options.actor)
    finally:
        await outboxes.dispose()
        await reader_engine.dispose()
    for message_id in requested:
        sys.stdout.write(json.dumps({"message_id": str(message_id), "redelivery": "requested"}) + "\n")
    if not requested:
        sys.stderr.write("no published message that the service reads matches\n")
    return 0 if requested else 1


def _engine(dsn: str) -> AsyncEngine:
    return engine_for(dsn, application_name="reelhouse-redelivery")


def _time(value: str) -> datetime:
    time = datetime.fromisoformat(value)
    if time.tzinfo is None:
        raise argparse.ArgumentTypeError("give the time with its zone, for example 2026-11-26T10:00:00Z")
    return time.astimezone(UTC)


def main(arguments: list[str]) -> int:
    """Parse ``arguments``, do it, return the exit status: 1 if nothing was found."""
    parser = argparse.ArgumentParser(
        prog="python -m messaging.redelivery", description="Deliver published messages to one of their readers again"
    )
    parser.add_argument("--dsn", required=True, help="connection string of the reader's runtime role")
    parser.add_argument("--schema", required=True, choices=SERVICES, help="the reader")
    parser.add_argument("--outbox-dsn", required=True, help="connection string that may read outboxes: the auditor's")
    parser.add_argument("--actor", required=True, help="who decides")
    parser.add_argument("--subject", help="with --since: every message on it of that time")
    parser.add_argument("--since", type=_time, help="ISO 8601 with a time zone")
    parser.add_argument("--until", type=_time, help="ISO 8601 with a time zone; by default now")
    parser.add_argument("message_ids", nargs="*", type=UUID)
    options = parser.parse_args(arguments)
    by_time = options.subject is not None and options.since is not None
    if bool(options.message_ids) == by_time or (options.message_ids and (options.since or options.until)):
        parser.error("name message ids, or --subject and --since")
    if options.subject not in (None, *(message.subject for message in consumed_by(options.schema))):
        parser.error(f"{options.schema} does not read {options.subject}")
    return asyncio.run(_run(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
