"""Findings: what a check found wrong, open until a check does not find it any more."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from auditor.domain import Violation


@dataclass(frozen=True, slots=True)
class FindingChanges:
    """How many findings a check opened and how many it resolved."""

    opened: int
    resolved: int


_UPSERT_FINDINGS: Final = text(
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


async def add_findings(
    connection: AsyncConnection, violations: Sequence[Violation], complete_codes: Sequence[str], checked_at: datetime
) -> FindingChanges:
    """Open or refresh a finding for each violation; resolve those of ``complete_codes`` that are not among them.

    A code is complete when every offender was listed: an offender beyond the limit must not count as resolved. Nor
    may a finding that another replica has seen since ``checked_at``, when this check began.
    """
    opened = await connection.scalar(
        _UPSERT_FINDINGS,
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
