"""The journal: every message that was received, once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from messaging.positions import Position, position_values, with_position
from messaging.sql import hot_statement
from service_runtime.statements import Statement


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

_NEW_ENTRIES: Final = f"""
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
"""  # noqa: S608 - the names come from the dataclass above
_ADD_ENTRIES: Final = Statement(_NEW_ENTRIES)
_ADD_ENTRIES_AND_POSITION: Final = hot_statement("auditor", with_position(_NEW_ENTRIES))


async def add_entries(
    connection: AsyncConnection, entries: Sequence[JournalEntry], position: Position | None = None
) -> None:
    """Add ``entries`` to the journal, and the checkpoint; entries that are in it already stay unchanged."""
    values: dict[str, object] = {f"{name}s": [getattr(one, name) for one in entries] for name in _COLUMNS}
    if position is None:
        await _ADD_ENTRIES.execute(connection, values)
    else:
        await _ADD_ENTRIES_AND_POSITION.execute(connection, values | position_values(position))


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
