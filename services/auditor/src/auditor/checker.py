"""The continuous check: find, keep as findings, and count."""

import time

import structlog
from prometheus_client import Gauge
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor import repository
from auditor.checking import check
from auditor.domain import Report
from auditor.invariants import INVARIANTS

VIOLATIONS = Gauge("auditor_violations", "Rows that break an invariant, by the last check", ["invariant", "severity"])
UNPROVEN = Gauge("auditor_invariant_unproven", "1 if the last check could not evaluate an invariant", ["invariant"])
LAST_CHECK_AT = Gauge(
    "auditor_last_check_timestamp_seconds",
    "When all was last checked, to the last invariant; its age is what to alert on",
)
LAST_CHECK_SECONDS = Gauge("auditor_last_check_duration_seconds", "How long the queries of the last check took")

_BUSY_SHARE = 0.1
"""At most this share of the time is spent checking: a ledger that has grown is checked less often, not harder."""

log = structlog.get_logger(__name__)


class Checker:
    """Checks every invariant and keeps what it finds. ``reading`` may take long, ``writing`` is short."""

    def __init__(self, reading: AsyncEngine, writing: AsyncEngine, tolerance_seconds: float) -> None:
        self._reading = reading
        self._writing = writing
        self._tolerance_seconds = tolerance_seconds
        self._not_before = 0.0
        for invariant in INVARIANTS:
            VIOLATIONS.labels(invariant.code, invariant.severity)
            UNPROVEN.labels(invariant.code)

    async def run_round(self) -> None:
        """Check, unless the last check took so long that it is not time yet."""
        began = time.monotonic()
        if began < self._not_before:
            return
        try:
            await self.check_now()
        finally:
            # A check that failed, or was cut off, has cost as much.
            self._not_before = time.monotonic() + (time.monotonic() - began) * (1 / _BUSY_SHARE - 1)

    async def check_now(self) -> Report:
        """One check, kept and counted."""
        report = await check(self._reading, self._tolerance_seconds)
        async with self._writing.begin() as connection:
            changes = await repository.add_findings(
                connection, report.violations, report.complete_codes, report.checked_at
            )
        for result in report.results:
            UNPROVEN.labels(result.invariant.code).set(result.failure is not None)
            if result.failure is None:
                VIOLATIONS.labels(result.invariant.code, result.invariant.severity).set(result.total)
        for result in report.unproven:
            log.error("invariant_not_checked", invariant=result.invariant.code, reason=result.failure)
        if not report.unproven:
            LAST_CHECK_AT.set_to_current_time()
        LAST_CHECK_SECONDS.set(report.seconds)
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
        return report
