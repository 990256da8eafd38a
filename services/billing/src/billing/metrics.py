"""Counters and gauges of billing. Called after the commit, so that a batch that was rolled back does not count."""

from collections.abc import Sequence
from typing import get_args, get_type_hints

import structlog
from prometheus_client import Counter, Gauge

from billing.domain import Clawback, Contradiction, Decision, Refusal, Resolution, Transfer
from contracts.billing import ClawBackCredits, GrantCredits, RefusalCode

log = structlog.get_logger(__name__)

VERDICTS = Counter("billing_verdicts_total", "Orders that were reserved or refused", ["verdict"])
CREDITS = Counter("billing_credits_total", "Credits moved, by movement", ["movement"])
GRANTED = Counter("billing_granted_credits_total", "Credits granted, by the reason of the grant", ["reason"])
CLAWED_BACK = Counter(
    "billing_clawed_back_credits_total", "Credits taken back or owed, by the reason of the clawback", ["reason"]
)
RESOLUTIONS = Counter("billing_resolutions_total", "Reservations that ended", ["status"])
CONTRADICTIONS = Counter(
    "billing_contradicting_outcomes_total", "Outcomes that came after another one had ended the reservation", ["kind"]
)
OVERDUE = Gauge("billing_reservations_overdue", "Reservations still held past their deadline")
UNSEALED = Gauge("billing_postings_unsealed", "Postings that no seal covers yet")
SEAL_NUMBER = Gauge("billing_seal_number", "Number of the newest seal of the ledger")
TREE_SEAL_NUMBER = Gauge("billing_tree_seal_number", "Number of the newest seal that is in the Merkle tree")


# A rate over a series that appears with its first event misses that event: all of them start at 0.
for _verdict in ("reserved", *get_args(RefusalCode)):
    VERDICTS.labels(_verdict)
for _movement in ("reserved", "captured", "released", "granted", "clawed_back", "owed", "expired"):
    CREDITS.labels(_movement)
for _reason in get_args(get_type_hints(GrantCredits)["reason"]):
    GRANTED.labels(_reason)
for _reason in get_args(get_type_hints(ClawBackCredits)["reason"]):
    CLAWED_BACK.labels(_reason)
for _status in ("captured", "released"):
    RESOLUTIONS.labels(_status)
for _kind in get_args(get_type_hints(Contradiction)["kind"]):
    CONTRADICTIONS.labels(_kind)


def count_verdicts(decisions: Sequence[Decision]) -> None:
    """Reserved and refused orders."""
    reserved_credits = [one[0].amount_credits for one in decisions if not isinstance(one, Refusal)]
    VERDICTS.labels("reserved").inc(len(reserved_credits))
    CREDITS.labels("reserved").inc(sum(reserved_credits))
    for one in decisions:
        if isinstance(one, Refusal):
            VERDICTS.labels(one.code).inc()


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
    for command in grants:
        GRANTED.labels(command.reason).inc(command.amount_credits)
    for clawback in clawbacks:
        CLAWED_BACK.labels(clawback.reason).inc(clawback.taken_credits + clawback.receivable_credits)


def count_expired(transfers: Sequence[Transfer]) -> None:
    """Credits that expired unspent: before anything was decided, or when a release returned them."""
    lines = (transfer.line for transfer in transfers)
    CREDITS.labels("expired").inc(sum(-line.available_delta_credits for line in lines if line.reason == "expiry"))
