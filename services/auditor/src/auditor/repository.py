"""All writes of the auditor. Reads over the other schemas are in ``invariants`` and ``queries``."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from auditor.domain import Violation


@dataclass(frozen=True, slots=True)
class Entry:
    """One message as the journal keeps it; ``payload`` is JSON."""

    message_id: UUID
    subject: str
    stream: str
    producer: str
    correlation_id: UUID
    causation_id: UUID | None
    user_id: UUID | None
    traceparent: str | None
    occurred_at: datetime
    payload: str


@dataclass(frozen=True, slots=True)
class FindingChanges:
    """What a check changed: findings that are new, and findings that are not there any more."""

    opened: int
    resolved: int


_COLUMNS: Final = tuple(field.name for field in fields(Entry))

_ADD_ENTRIES: Final = text(
    f"""
    INSERT INTO auditor.journal ({", ".join(_COLUMNS)})
    SELECT message_id, subject, stream, producer, correlation_id, causation_id, user_id, traceparent, occurred_at,
           payload::jsonb
    FROM unnest(
        CAST(:message_id AS uuid[]), CAST(:subject AS text[]), CAST(:stream AS text[]), CAST(:producer AS text[]),
        CAST(:correlation_id AS uuid[]), CAST(:causation_id AS uuid[]), CAST(:user_id AS uuid[]),
        CAST(:traceparent AS text[]), CAST(:occurred_at AS timestamptz[]), CAST(:payload AS text[])
    ) AS entry ({", ".join(_COLUMNS)})
    ON CONFLICT (message_id) DO NOTHING
    """  # noqa: S608 - the names come from the dataclass above
)

_SEE_FINDINGS: Final = text(
    """
    WITH seen AS (
        -- An id can break one invariant in two ways: that is one finding which says both.
        SELECT code, severity, subject_key, string_agg(expected, '; ') AS expected, string_agg(found, '; ') AS found
        FROM unnest(
            CAST(:code AS text[]), CAST(:severity AS text[]), CAST(:subject AS text[]), CAST(:expected AS text[]),
            CAST(:found AS text[])
        ) AS violation (code, severity, subject_key, expected, found)
        GROUP BY code, severity, subject_key
    ), written AS (
        INSERT INTO auditor.findings AS f (code, severity, subject_key, expected, found)
        SELECT code, severity, subject_key, expected, found FROM seen
        ON CONFLICT (code, subject_key) WHERE resolved_at IS NULL
        DO UPDATE SET expected = excluded.expected, found = excluded.found, last_seen_at = now()
        RETURNING f.first_seen_at = now() AS opened
    )
    SELECT count(*) FILTER (WHERE opened) FROM written
    """
)

_RESOLVE_FINDINGS: Final = text(
    """
    UPDATE auditor.findings SET resolved_at = now()
    WHERE resolved_at IS NULL AND code = ANY(CAST(:complete_codes AS text[])) AND last_seen_at < :checked_at
    """
)


async def add_entries(connection: AsyncConnection, entries: Sequence[Entry]) -> None:
    """Add ``entries`` to the journal, leaving alone what is there."""
    columns = zip(*(astuple(entry) for entry in entries), strict=True)
    await connection.execute(_ADD_ENTRIES, dict(zip(_COLUMNS, (list(values) for values in columns), strict=True)))


async def add_findings(
    connection: AsyncConnection, violations: Sequence[Violation], complete_codes: Sequence[str], checked_at: datetime
) -> FindingChanges:
    """Open or refresh a finding for each violation; resolve those of ``complete_codes`` that are not among them.

    A code is complete when every offender was listed: what is cut off at a limit must not pass for resolved. Nor may
    what another replica has seen since ``checked_at``, when this check began.
    """
    opened = await connection.scalar(
        _SEE_FINDINGS,
        {
            "code": [violation.code for violation in violations],
            "severity": [violation.severity for violation in violations],
            "subject": [violation.subject for violation in violations],
            "expected": [violation.expected for violation in violations],
            "found": [violation.found for violation in violations],
        },
    )
    resolved = await connection.execute(
        _RESOLVE_FINDINGS, {"complete_codes": list(complete_codes), "checked_at": checked_at}
    )
    return FindingChanges(opened=opened or 0, resolved=resolved.rowcount)


async def maintain_partitions(connection: AsyncConnection, retention_days: int) -> tuple[int, int]:
    """Make the journal's coming days and drop those older than ``retention_days``; returns how many of each."""
    result = await connection.execute(
        text("SELECT created, dropped FROM auditor.maintain_journal_partitions(:days)"), {"days": retention_days}
    )
    created, dropped = result.one()
    return created, dropped
