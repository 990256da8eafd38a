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
        SELECT code, severity, subject_key, string_agg(expected, '; ') AS expected, string_agg(found, '; ') AS found,
               min(key) AS key
        FROM unnest(
            CAST(:code AS text[]), CAST(:severity AS text[]), CAST(:subject AS text[]), CAST(:expected AS text[]),
            CAST(:found AS text[]), CAST(:key AS text[])
        ) AS violation (code, severity, subject_key, expected, found, key)
        GROUP BY code, severity, subject_key
    ), written AS (
        INSERT INTO auditor.findings AS f (code, severity, subject_key, expected, found, key)
        SELECT code, severity, subject_key, expected, found, key FROM seen
        ON CONFLICT (code, subject_key) WHERE resolved_at IS NULL
        DO UPDATE SET expected = excluded.expected, found = excluded.found, key = excluded.key, last_seen_at = now()
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
            "key": [violation.key for violation in violations],
        },
    )
    resolved = await connection.execute(
        _RESOLVE_FINDINGS, {"complete_codes": list(complete_codes), "checked_at": checked_at}
    )
    return FindingChanges(opened=opened or 0, resolved=resolved.rowcount)


@dataclass(frozen=True, slots=True)
class OpenFinding:
    """A finding that no check has resolved. ``key`` is the id of the scope in which it was found."""

    code: str
    subject: str
    key: str


_OPEN: Final = text("""
    SELECT code, subject_key, coalesce(key, subject_key) FROM auditor.findings
    WHERE resolved_at IS NULL AND code = ANY(CAST(:codes AS text[])) ORDER BY last_seen_at LIMIT :limit
""")
_COUNT_OPEN: Final = text("""
    SELECT code, count(*) AS open FROM auditor.findings
    WHERE resolved_at IS NULL AND code = ANY(CAST(:codes AS text[])) GROUP BY code
""")
_RESOLVE_SUBJECTS: Final = text("""
    UPDATE auditor.findings SET resolved_at = now()
    WHERE resolved_at IS NULL AND code = :code AND subject_key = ANY(CAST(:subjects AS text[]))
""")
_RESOLVE_UNSEEN: Final = text("""
    UPDATE auditor.findings AS f SET resolved_at = now()
    FROM unnest(CAST(:codes AS text[]), CAST(:subjects AS text[])) AS gone (code, subject_key)
    WHERE f.resolved_at IS NULL AND f.code = gone.code AND f.subject_key = gone.subject_key
      AND f.last_seen_at < :checked_at
""")

_REFRESH_SUBJECTS: Final = text("""
    UPDATE auditor.findings SET last_seen_at = now()
    WHERE resolved_at IS NULL AND code = :code AND subject_key = ANY(CAST(:subjects AS text[]))
""")


async def find_open(connection: AsyncConnection, codes: Sequence[str], limit: int) -> list[OpenFinding]:
    """Open findings of these codes, those first that were not seen for longest."""
    return [OpenFinding(*row) for row in await connection.execute(_OPEN, {"codes": list(codes), "limit": limit})]


async def count_open(connection: AsyncConnection, codes: Sequence[str]) -> dict[str, int]:
    """How many findings of each code are open."""
    rows = (await connection.execute(_COUNT_OPEN, {"codes": list(codes)})).all()
    counted = {row.code: row.open for row in rows}
    return {code: counted.get(code, 0) for code in codes}


async def resolve_subjects(connection: AsyncConnection, code: str, subjects: Sequence[str]) -> None:
    """Resolve the open findings about these subjects: nothing is wrong with them any more."""
    await connection.execute(_RESOLVE_SUBJECTS, {"code": code, "subjects": list(subjects)})


async def resolve_unseen(connection: AsyncConnection, gone: Sequence[OpenFinding], checked_at: datetime) -> int:
    """Resolve those of ``gone`` that nobody has seen since ``checked_at``; returns how many."""
    values = {"codes": [one.code for one in gone], "subjects": [one.subject for one in gone], "checked_at": checked_at}
    return (await connection.execute(_RESOLVE_UNSEEN, values)).rowcount


async def refresh_subjects(connection: AsyncConnection, code: str, subjects: Sequence[str]) -> None:
    """Say that the open findings about these subjects still stand."""
    await connection.execute(_REFRESH_SUBJECTS, {"code": code, "subjects": list(subjects)})
