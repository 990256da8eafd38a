"""Counters and gauges of billing. Called after the commit, so that a batch that was rolled back does not count."""

from collections.abc import Sequence

import structlog
from prometheus_client import Counter, Gauge

from billing.domain import Clawback, Contradiction, Refusal, Resolution
from contracts.billing import GrantCredits

log = structlog.get_logger(__name__)

VERDICTS = Counter("billing_verdicts_total", "Orders that were reserved or refused", ["verdict"])
CREDITS = Counter("billing_credits_total", "Credits moved, by movement", ["movement"])
RESOLUTIONS = Counter("billing_resolutions_total", "Reservations that ended", ["status"])
CONTRADICTIONS = Counter(
    "billing_contradicting_outcomes_total", "Outcomes that came after another one had ended the reservation", ["kind"]
)
OVERDUE = Gauge("billing_reservations_overdue", "Reservations still held past their deadline")
UNSEALED = Gauge("billing_postings_unsealed", "Postings that no seal covers yet")
SEAL_NUMBER = Gauge("billing_seal_number", "Number of the newest seal of the ledger")


def count_verdicts(reserved: int, refusals: Sequence[Refusal]) -> None:
    """Reserved and refused orders."""
    VERDICTS.labels("reserved").inc(reserved)
    for refusal in refusals:
        VERDICTS.labels(refusal.code).inc()


def count_resolutions(resolutions: Sequence[Resolution], contradictions: Sequence[Contradiction]) -> None:
    """Resolved reservations, and outcomes that came after the resolution."""
    for resolution in resolutions:
        RESOLUTIONS.labels(resolution.status).inc()
        CREDITS.labels("captured").inc(resolution.captured_credits)
        CREDITS.labels("released").inc(resolution.released_credits)
    for one in contradictions:
        CONTRADICTIONS.labels(one.kind).inc()
        log.warning("outcome_contradicts_resolution", kind=one.kind, generation_id=str(one.generation_id))


def count_commands(grants: Sequence[GrantCredits], clawbacks: Sequence[Clawback]) -> None:
    """Granted and clawed back credits, and the part of the clawbacks that became a debt."""
    CREDITS.labels("granted").inc(sum(command.amount_credits for command in grants))
    CREDITS.labels("clawed_back").inc(sum(clawback.taken_credits for clawback in clawbacks))
    CREDITS.labels("owed").inc(sum(clawback.receivable_credits for clawback in clawbacks))
