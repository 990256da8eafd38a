"""What a snapshot means for a payment: its next status, the credits to move, and what a person must decide."""

from dataclasses import dataclass, field

from contracts.payments import PaymentChangeReason, PaymentReviewCode, PaymentStatus
from payments.domain.clawbacks import (
    basis_cents,
    corrections,
    foreign_takings,
    forgotten_takings,
    live_refunds,
    lost_cents,
    shown_takings,
    with_forgotten,
)
from payments.domain.payment_state import Movement, PaymentState, Review, pack_movements
from payments.domain.snapshots import Snapshot


@dataclass(frozen=True, slots=True)
class Transition:
    """What follows from a snapshot: the status, the credits to move now, and perhaps a review."""

    status: PaymentStatus
    refunded_cents: int
    reason: PaymentChangeReason
    movements: tuple[Movement, ...] = field(default=())
    review: Review | None = None


def apply_snapshot(state: PaymentState, snapshot: Snapshot) -> Transition:
    """Fold the provider's view into ours. Applying the same snapshot twice moves nothing the second time."""
    if state.resolution == "dismissed":
        return _dismissed(state, snapshot)
    review = _review_of(state, snapshot)
    if not state.credited and state.resolution is None:
        if review is not None and review.code != "overpaid":
            return Transition(status="review", refunded_cents=0, reason=review.code, review=review)
        if snapshot.state != "paid":
            return _unpaid(snapshot)
    # Credited once, even if the snapshot says unpaid: an invoice that a person accepted stays expired for ever.
    granted = () if state.credited else pack_movements(state.credits, state.bonus_credits)
    whole = with_forgotten(state, snapshot)
    status = _paid_status(state, whole)
    return Transition(
        status=status,
        refunded_cents=sum(one.amount_cents for one in live_refunds(whole) if one.currency == whole.currency),
        reason="paid" if status == "settled" else status,
        movements=(*granted, *corrections(state, whole)),
        review=_review_of_credited(state, snapshot),
    )


def _dismissed(state: PaymentState, snapshot: Snapshot) -> Transition:
    """A person decided on what was found then. If something else is found now, a person decides again."""
    review = _review_of(state, snapshot)
    if review is None and snapshot.state == "paid":
        review = Review("paid_after_dismissal", _price(state), _arrived(snapshot))
    if review is None or (review.code, review.found) in state.decided:
        return Transition(status="failed", refunded_cents=0, reason="dismissed")
    return Transition(status="review", refunded_cents=0, reason=review.code, review=review)


def _unpaid(snapshot: Snapshot) -> Transition:
    status: PaymentStatus = "pending"
    if snapshot.state in ("expired", "failed"):
        status = snapshot.state
    reason: PaymentChangeReason = "processing" if snapshot.state == "processing" else status
    return Transition(status=status, refunded_cents=0, reason=reason)


def _review_of(state: PaymentState, snapshot: Snapshot) -> Review | None:
    """What does not match about the money that is there, if any is there."""
    code: PaymentReviewCode | None = snapshot.mismatch
    if code is None and snapshot.state != "paid":
        return None
    if snapshot.state == "paid" and code in (None, "overpaid") and _is_short(state, snapshot):
        # More than the provider had asked for is not always as much as the pack costs.
        code = "amount_mismatch"
    if code is None and snapshot.paid_cents > state.price_cents:
        code = "overpaid"
    return None if code is None else Review(code, _price(state), _arrived(snapshot))


def _is_short(state: PaymentState, snapshot: Snapshot) -> bool:
    return snapshot.currency != state.currency or snapshot.paid_cents < state.price_cents


def _review_of_credited(state: PaymentState, snapshot: Snapshot) -> Review | None:
    """What a person must look at although the credits are there; at most one at a time, the worst first."""
    if state.credited_as_paid and snapshot.state != "paid":
        return Review("no_longer_paid", state.status, snapshot.state)
    basis = basis_cents(state, with_forgotten(state, snapshot))
    if state.credited and snapshot.state != "processing" and snapshot.paid_cents < min(basis, state.paid_cents):
        return Review("no_longer_paid", f"{basis} cents {snapshot.currency}", _arrived(snapshot))
    if foreign := foreign_takings(snapshot):
        return Review("taken_in_another_currency", _price(state), "; ".join(foreign))
    if forgotten := forgotten_takings(state, snapshot):
        # Both count. One may have replaced the other: whenever what is shown changes, a person must know.
        shown = ", ".join(shown_takings(snapshot)) or "none"
        return Review("missing_at_provider", ", ".join(forgotten), f"refunds and disputes that are shown: {shown}")
    review = _review_of(state, snapshot)
    return review if review is not None and review.code == "overpaid" else None


def _price(state: PaymentState) -> str:
    return f"{state.price_cents} cents {state.currency}"


def _arrived(snapshot: Snapshot) -> str:
    return f"{snapshot.paid_cents} cents {snapshot.currency}"


def _paid_status(state: PaymentState, snapshot: Snapshot) -> PaymentStatus:
    disputes = {dispute.state for dispute in snapshot.disputes}
    if "lost" in disputes:
        return "dispute_lost"
    if "open" in disputes:
        return "disputed"
    lost = lost_cents(state, snapshot)
    if lost >= basis_cents(state, snapshot):
        return "refunded"
    return "partially_refunded" if lost else "settled"
