"""A check's report for people and for programs."""

from typing import Any

from auditor.domain import Report, Result
from auditor.text_tables import render_table


def render_report(report: Report) -> str:
    """Every invariant with its verdict, and below each offender with both sides."""
    rows = [(_verdict(result), result.invariant.code, result.invariant.meaning) for result in report.results]
    parts = [render_table(("verdict", "invariant", "what must be true"), rows)]
    if report.violations:
        offenders = [(v.code, v.subject, v.expected, v.found) for v in report.violations]
        parts.append(render_table(("invariant", "subject", "expected", "found"), offenders))
    parts += [f"{result.invariant.code} could not be checked: {result.failure}" for result in report.unproven]
    verdict = f"{report.total} violations" if report.total else "no violations"
    if report.unproven:
        verdict += f", {len(report.unproven)} NOT CHECKED,"
    parts.append(
        f"{verdict} of {len(report.results)} invariants, begun at {report.checked_at:%Y-%m-%d %H:%M:%S} UTC, "
        f"tolerance {report.tolerance_seconds:g} s, {report.seconds:.2f} s of queries"
    )
    return "\n\n".join(parts)


def _verdict(result: Result) -> str:
    if result.failure is not None:
        return "NOT CHECKED"
    return f"{result.total} VIOLATED" if result.total else "ok"


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
                "failure": result.failure,
                "seconds": result.seconds,
                "listed": [{"subject": v.subject, "expected": v.expected, "found": v.found} for v in result.violations],
            }
            for result in report.results
        ],
    }
