"""A check's report for people and for programs."""

from datetime import datetime

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from auditor.domain import Report, Result, Severity
from auditor.terminal import page, table


class OffenderDocument(msgspec.Struct, frozen=True):
    """One row that breaks an invariant, with both sides."""

    subject: str
    expected: str
    found: str


class InvariantDocument(msgspec.Struct, frozen=True):
    """The result of one invariant. ``failure`` says why it could not be checked."""

    code: str
    severity: Severity
    violations: int
    failure: str | None
    seconds: float
    listed: list[OffenderDocument]


class ReportDocument(msgspec.Struct, frozen=True):
    """What ``check --json`` prints."""

    checked_at: datetime
    tolerance_seconds: float
    seconds: float
    violations: int
    invariants: list[InvariantDocument]


def render_report(report: Report) -> Group:
    """Every invariant with its verdict, and below each offender with both sides."""
    rows = [(_verdict(result), result.invariant.code, result.invariant.meaning) for result in report.results]
    parts: list[RenderableType] = [table(("verdict", "invariant", "what must be true"), rows)]
    if report.violations:
        offenders = [(v.code, v.subject, v.expected, v.found) for v in report.violations]
        parts.append(table(("invariant", "subject", "expected", "found"), offenders, widest_cell=None))
    parts += [f"{result.invariant.code} could not be checked: {result.failure}" for result in report.unproven]
    parts.append(_conclusion(report))
    return page(parts)


def _verdict(result: Result) -> Text:
    if result.failure is not None:
        return Text("NOT CHECKED", style="bold red")
    return Text(f"{result.total} VIOLATED", style="bold red") if result.total else Text("ok", style="green")


def _conclusion(report: Report) -> str:
    verdict = f"{report.total} violations" if report.total else "no violations"
    if report.unproven:
        verdict += f", {len(report.unproven)} NOT CHECKED,"
    return (
        f"{verdict} of {len(report.results)} invariants, begun at {report.checked_at:%Y-%m-%d %H:%M:%S} UTC, "
        f"tolerance {report.tolerance_seconds:g} s, {report.seconds:.2f} s of queries"
    )


def report_document(report: Report) -> ReportDocument:
    """The report as JSON values."""
    return ReportDocument(
        checked_at=report.checked_at,
        tolerance_seconds=report.tolerance_seconds,
        seconds=report.seconds,
        violations=report.total,
        invariants=[_invariant_document(result) for result in report.results],
    )


def _invariant_document(result: Result) -> InvariantDocument:
    return InvariantDocument(
        code=result.invariant.code,
        severity=result.invariant.severity,
        violations=result.total,
        failure=result.failure,
        seconds=result.seconds,
        listed=[OffenderDocument(v.subject, v.expected, v.found) for v in result.violations],
    )
