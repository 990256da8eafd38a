"""A check's report for people and for programs."""

from typing import Any

from auditor.domain import Report
from auditor.text_tables import render_table


def render_report(report: Report) -> str:
    """Every invariant with its verdict, and below each offender with both sides."""
    rows = [
        ("ok" if result.total == 0 else f"{result.total} VIOLATED", result.invariant.code, result.invariant.meaning)
        for result in report.results
    ]
    parts = [render_table(("verdict", "invariant", "what must be true"), rows)]
    if report.violations:
        offenders = [(v.code, v.subject, v.expected, v.found) for v in report.violations]
        parts.append(render_table(("invariant", "subject", "expected", "found"), offenders))
    verdict = f"{report.total} violations" if report.total else "no violations"
    parts.append(
        f"{verdict} of {len(report.results)} invariants, on one snapshot at {report.checked_at:%Y-%m-%d %H:%M:%S} UTC, "
        f"tolerance {report.tolerance_seconds:g} s, {report.seconds:.2f} s of queries"
    )
    return "\n\n".join(parts)


def report_document(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
    return {
        "checked_at": report.checked_at,
        "tolerance_seconds": report.tolerance_seconds,
        "seconds": report.seconds,
        "violations": report.total,
        "invariants": [
            {
                "code": result.invariant.code,
                "severity": result.invariant.severity,
                "violations": result.total,
                "seconds": result.seconds,
                "listed": [{"subject": v.subject, "expected": v.expected, "found": v.found} for v in result.violations],
            }
            for result in report.results
        ],
    }
