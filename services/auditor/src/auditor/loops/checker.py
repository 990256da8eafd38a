"""The continuous check: prove what is new, go over what is old, set the gauges."""

import time
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.domain import Report
from auditor.invariants import INVARIANTS
from auditor.metrics import LAST_CHECK_AT, LAST_CHECK_SECONDS, PASS_AT, PROVEN_THROUGH, UNPROVEN, VIOLATIONS
from auditor.portions import SCOPES
from auditor.proving import Prover, Round
from auditor.repository.findings import FindingChanges

BUSY_SHARE: Final = 0.1
"""At most this share of the time is spent checking."""
PASS_SECONDS: Final = 2.0
"""Of these checks, the part for what is old, unless it was told otherwise."""

log = structlog.get_logger(__name__)


class Checker:
    """Rounds of the proof, in a bounded share of the time."""

    def __init__(
        self,
        reading: AsyncEngine,
        writing: AsyncEngine,
        tolerance_seconds: float,
        pass_seconds: float = PASS_SECONDS,
    ) -> None:
        self._prover = Prover(reading, writing, tolerance_seconds, pass_seconds)
        self._not_before = 0.0
        for scope in SCOPES:
            PASS_AT.labels(scope)
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
            self._not_before = time.monotonic() + (time.monotonic() - began) * (1 / BUSY_SHARE - 1)

    async def check_now(self) -> Report:
        """Check once; the findings are stored and the gauges set."""
        proven = await self._prover.prove()
        _set_gauges(proven)
        _log(proven.report, proven.changes)
        return proven.report


def _set_gauges(proven: Round) -> None:
    report = proven.report
    for result in report.results:
        UNPROVEN.labels(result.invariant.code).set(result.failure is not None)
        if result.failure is None:
            # A round does not see again what it finds only when its pass comes by.
            total = max(result.total, proven.open_findings[result.invariant.code])
            VIOLATIONS.labels(result.invariant.code, result.invariant.severity).set(total)
    PROVEN_THROUGH.set(proven.proven_through.timestamp())
    for one in proven.passes.values():
        if one.proven_at is not None:
            PASS_AT.labels(one.scope).set(one.proven_at.timestamp())
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
