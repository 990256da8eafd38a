"""What one check of all invariants says."""

from datetime import UTC, datetime

from auditor.domain import Invariant, Report, Result, Violation


def _result(code: str, total: int = 0, listed: int = 0, failure: str | None = None) -> Result:
    violations = tuple(Violation(code, "critical", f"{code} {number}", "1", "2") for number in range(listed))
    return Result(Invariant(code, "critical", "meaning", "SELECT"), total, violations, 0.5, failure)


def _report(*results: Result) -> Report:
    return Report(datetime.now(UTC), 60.0, results)


def test_only_a_report_without_violations_and_failures_is_clean() -> None:
    assert _report(_result("a"), _result("b")).clean
    assert not _report(_result("a"), _result("b", total=1, listed=1)).clean
    assert not _report(_result("a"), _result("b", failure="timeout")).clean


def test_violations_are_counted_even_if_they_are_not_listed() -> None:
    report = _report(_result("a", total=500, listed=2), _result("b", total=1, listed=1))
    assert report.total == 501
    assert [violation.subject for violation in report.violations] == ["a 0", "a 1", "b 0"]
    assert report.seconds == 1.0


def test_findings_may_close_only_where_every_violation_is_listed() -> None:
    report = _report(_result("none"), _result("all", 2, 2), _result("cut", 500, 2), _result("failed", failure="x"))
    assert report.complete_codes == ("none", "all")
    assert [result.invariant.code for result in report.unproven] == ["failed"]
