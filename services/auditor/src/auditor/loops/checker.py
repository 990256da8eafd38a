"""The continuous check: evaluate every invariant, store the findings, set the gauges."""

import time
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.checking import check
from auditor.domain import Report
from auditor.invariants import INVARIANTS
from auditor.metrics import LAST_CHECK_AT, LAST_CHECK_SECONDS, UNPROVEN, VIOLATIONS
from auditor.repository.findings import FindingChanges, add_findings

_BUSY_SHARE: Final = 0.1
"""At most this share of the time is spent checking: a ledger that has grown is checked less often, not harder."""

log = structlog.get_logger(__name__)


class Checker:
    """Checks every invariant and stores the findings. ``reading`` may take long, ``writing`` is short."""

    def __init__(self, reading: AsyncEngine, writing: AsyncEngine, tolerance_seconds: float) -> None:
        self._reading = reading
        self._writing = writing
        self._tolerance_seconds = tolerance_seconds
        self._not_before = 0.0
        for invariant in INVARIANTS:
            VIOLATIONS.labels(invariant.code, invariant.severity)
            UNPROVEN.labels(invariant.code)

    async def run_round(self) -> None:
        """Check, unless the last check took so long that the next one is not due yet."""
        began = time.monotonic()
        if began < self._not_before:
            return
        try:
            await self.check_now()
        finally:
            # A check that failed or timed out has cost as much.
            self._not_before = time.monotonic() + (time.monotonic() - began) * (1 / _BUSY_SHARE - 1)

    async def check_now(self) -> Report:
        """Check once; the findings are stored and the gauges set."""
        report = await check(self._reading, self._tolerance_seconds)
        async with self._writing.begin() as connection:
            changes = await add_findings(connection, report.violations, report.complete_codes, report.checked_at)
        _set_gauges(report)
        _log(report, changes)
        return report


def _set_gauges(report: Report) -> None:
    for result in report.results:
        UNPROVEN.labels(result.invariant.code).set(result.failure is not None)
        if result.failure is None:
            VIOLATIONS.labels(result.invariant.code, result.invariant.severity).set(result.total)
    if not report.unproven:
        LAST_CHECK_AT.set_to_current_time()
    LAST_CHECK_SECONDS.set(report.seconds)


def _log(report: Report, changes: FindingChanges) -> None:
    for result in report.unproven:
        log.error("invariant_not_checked", invariant=result.invariant.code, reason=result.failure)
    if changes.opened or changes.resolved:
        log.warning("findings_changed", opened=changes.opened, resolved=changes.resolved, total=report.total)
    for violation in report.violations if changes.opened else ():
        log.error(
            "invariant_violated",
            invariant=violation.code,
            subject=violation.subject,
            expected=violation.expected,
            found=violation.found,
        )
