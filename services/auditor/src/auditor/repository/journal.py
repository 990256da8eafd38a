"""The journal: every message that was received, once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from messaging.outbox import Writes
from messaging.transaction import Transaction


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One message as the journal stores it; ``payload`` is JSON.

    ``producer`` is the service that the message names, and ``is_foreign`` says that it does not own the subject.
    """

    message_id: UUID
    subject: str
    stream: str
    producer: str
    is_foreign: bool
    correlation_id: UUID
    causation_id: UUID | None
    user_id: UUID | None
    traceparent: str | None
    occurred_at: datetime
    payload: str


_COLUMNS: Final = tuple(field.name for field in fields(JournalEntry))

_ADD_ENTRIES: Final = Writes(
    f"""
    entries AS (
    INSERT INTO auditor.journal ({", ".join(_COLUMNS)})
    SELECT message_id, subject, stream, producer, is_foreign, correlation_id, causation_id, user_id, traceparent,
           occurred_at, payload::jsonb
    FROM unnest(
        CAST(:message_ids AS uuid[]), CAST(:subjects AS text[]), CAST(:streams AS text[]), CAST(:producers AS text[]),
        CAST(:is_foreigns AS boolean[]), CAST(:correlation_ids AS uuid[]), CAST(:causation_ids AS uuid[]),
        CAST(:user_ids AS uuid[]), CAST(:traceparents AS text[]), CAST(:occurred_ats AS timestamptz[]),
        CAST(:payloads AS text[])
    ) AS entry ({", ".join(_COLUMNS)})
    ON CONFLICT (message_id) DO NOTHING
    )""",  # noqa: S608 - the names come from the dataclass above
    "NULL",
)


async def add_entries(tx: Transaction, entries: Sequence[JournalEntry]) -> None:
    """Add ``entries`` to the journal, with the checkpoint; entries that are in it already stay unchanged."""
    await tx.write_last(_ADD_ENTRIES, {f"{name}s": [getattr(one, name) for one in entries] for name in _COLUMNS})


@dataclass(frozen=True, slots=True)
class PartitionChanges:
    """How many daily partitions were made and dropped."""

    created: int
    dropped: int


async def maintain_partitions(connection: AsyncConnection, retention_days: int) -> PartitionChanges:
    """Make the journal's coming days and drop those older than ``retention_days``."""
    result = await connection.execute(
        text("SELECT created, dropped FROM auditor.maintain_journal_partitions(:days)"), {"days": retention_days}
    )
    return PartitionChanges(*result.one())
