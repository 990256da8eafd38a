"""What a provider's present view of a payment means for the money. Pure: no input, no output.

Webhooks are hints. Whatever they say, the payment is looked up at its provider, and the whole state found there is
folded into ours by ``advance``. It depends on that state alone: events that are repeated, reordered, late or lost
lead to the same end.
"""

from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from contracts.payments import PaymentStatus

CheckoutState = Literal["open", "processing", "paid", "expired", "failed"]
Mismatch = Literal["underpaid", "overpaid", "late", "amount_mismatch"]
ReviewCode = (
    Mismatch
    | Literal[
        "early_fraud_warning",  # the card's bank expects a dispute
        "unknown_payment",  # paid at the provider, and no payment of ours
        "difference",  # the provider's view and ours do not agree
        "missing_at_provider",  # settled here, and the provider does not list it
        "unposted",  # credits were ordered of billing and are not in the ledger
        "no_checkout",  # money or news for a payment that never got its checkout
    ]
)
RefundState = Literal["requested", "pending", "succeeded", "failed"]
DisputeState = Literal["warning", "open", "won", "lost"]
MovementKind = Literal["purchase", "bonus", "refund", "refund_failed", "dispute", "dispute_won"]
Resolution = Literal["credited", "dismissed"]

TAKING: frozenset[MovementKind] = frozenset({"refund", "dispute"})
RETURNING: frozenset[MovementKind] = frozenset({"refund_failed", "dispute_won"})


@dataclass(frozen=True)
class ProviderRefund:
    """A refund as the provider shows it; ``pending`` ones count: the money is on its way out."""

    reference: str
    amount_cents: int
    state: RefundState


@dataclass(frozen=True)
class ProviderDispute:
    """A dispute as the provider shows it. A ``warning`` moves no money; an ``open`` one has taken it already."""

    reference: str
    amount_cents: int
    state: DisputeState


@dataclass(frozen=True)
class Snapshot:
    """Everything that the provider knows of one payment, at one moment.

    ``paid_cents`` is what arrived in the payment's own currency (crypto providers convert); ``charge_reference`` names
    the money at the provider where that differs from the checkout (Stripe: the PaymentIntent).
    """

    reference: str
    state: CheckoutState
    paid_cents: int
    currency: str
    charge_reference: str | None = None
    mismatch: Mismatch | None = None
    detail: str | None = None
    refunds: tuple[ProviderRefund, ...] = ()
    disputes: tuple[ProviderDispute, ...] = ()


@dataclass(frozen=True)
class Movement:
    """Credits that moved, or are to move, for a payment. ``(payment, kind, reference)`` is its identity."""

    kind: MovementKind
    reference: str
    amount_credits: int


@dataclass(frozen=True)
class Standing:
    """What we hold true of a payment before looking."""

    payment_id: UUID
    status: PaymentStatus
    price_cents: int
    currency: str
    credits: int
    bonus_credits: int
    movements: tuple[Movement, ...] = ()
    resolution: Resolution | None = None

    @property
    def total_credits(self) -> int:
        """Bought and bonus credits together: what a full refund takes back."""
        return self.credits + self.bonus_credits


@dataclass(frozen=True)
class Review:
    """Something only a person can decide, with both sides shown."""

    code: ReviewCode
    expected: str
    found: str


@dataclass(frozen=True)
class Advance:
    """What follows from a snapshot: the status, the credits to move now, and what a person must look at."""

    status: PaymentStatus
    refunded_cents: int
    reason: str
    movements: tuple[Movement, ...] = field(default=())
    review: Review | None = None


def advance(standing: Standing, snapshot: Snapshot) -> Advance:
    """Fold the provider's view into ours. Applying the same snapshot twice moves nothing the second time."""
    if snapshot.state != "paid":
        return _unpaid(standing, snapshot)
    review = _review_of(standing, snapshot)
    if review is not None and review.code != "overpaid" and standing.resolution is None:
        return Advance(status="review", refunded_cents=0, reason=review.code, review=review)
    if standing.resolution == "dismissed":
        return Advance(status="failed", refunded_cents=0, reason="dismissed")
    movements = [*_grants(standing)]
    movements += _clawbacks(standing, snapshot)
    status = _paid_status(standing, snapshot)
    return Advance(
        status=status,
        refunded_cents=_refunded_cents(snapshot),
        reason={"settled": "paid"}.get(status, status),
        movements=tuple(movements),
        review=review,
    )


def _unpaid(standing: Standing, snapshot: Snapshot) -> Advance:
    if snapshot.mismatch is not None and standing.resolution is None:
        review = Review(snapshot.mismatch, _price(standing), _arrived(snapshot))
        return Advance(status="review", refunded_cents=0, reason=review.code, review=review)
    if standing.resolution is not None or standing.movements:
        # Paid or decided before: a provider that shows less now does not undo it; the daily sweep reports it.
        return Advance(status=standing.status, refunded_cents=0, reason="unchanged")
    status: PaymentStatus = "pending"
    if snapshot.state in ("expired", "failed"):
        status = snapshot.state
    reason = "processing" if snapshot.state == "processing" else status
    return Advance(status=status, refunded_cents=0, reason=reason)


def _review_of(standing: Standing, snapshot: Snapshot) -> Review | None:
    code: ReviewCode | None = snapshot.mismatch
    if code is None and (snapshot.currency != standing.currency or snapshot.paid_cents < standing.price_cents):
        code = "amount_mismatch"
    if code is None and snapshot.paid_cents > standing.price_cents:
        code = "overpaid"
    return None if code is None else Review(code, _price(standing), _arrived(snapshot))


def _price(standing: Standing) -> str:
    return f"{standing.price_cents} cents {standing.currency}"


def _arrived(snapshot: Snapshot) -> str:
    return f"{snapshot.paid_cents} cents {snapshot.currency}"


def _grants(standing: Standing) -> list[Movement]:
    known = {movement.kind for movement in standing.movements}
    grants = []
    if "purchase" not in known and standing.credits:
        grants.append(Movement("purchase", "", standing.credits))
        if standing.bonus_credits:
            grants.append(Movement("bonus", "", standing.bonus_credits))
    return grants


def _clawbacks(standing: Standing, snapshot: Snapshot) -> list[Movement]:
    known = {(movement.kind, movement.reference): movement for movement in standing.movements}
    taken = sum(movement.amount_credits for movement in standing.movements if movement.kind in TAKING)
    taken -= sum(movement.amount_credits for movement in standing.movements if movement.kind in RETURNING)
    found: list[Movement] = []

    for failed in (refund for refund in snapshot.refunds if refund.state == "failed"):
        before = known.get(("refund", failed.reference))
        if before is not None and ("refund_failed", failed.reference) not in known:
            found.append(Movement("refund_failed", failed.reference, before.amount_credits))
            taken -= before.amount_credits
    for won in (dispute for dispute in snapshot.disputes if dispute.state == "won"):
        before = known.get(("dispute", won.reference))
        if before is not None and ("dispute_won", won.reference) not in known:
            found.append(Movement("dispute_won", won.reference, before.amount_credits))
            taken -= before.amount_credits

    return found + _takings(standing, snapshot, known, taken)


def _takings(
    standing: Standing, snapshot: Snapshot, known: dict[tuple[MovementKind, str], Movement], taken: int
) -> list[Movement]:
    """New refunds and disputes take their share of the credits, rounded down; the last one makes the sum right.

    All together take ``total x gone / price``, rounded down and never more than the total, however they were found.
    """
    gone: list[tuple[MovementKind, str, int]] = []
    gone += [("refund", refund.reference, refund.amount_cents) for refund in live_refunds(snapshot)]
    gone += [("dispute", d.reference, d.amount_cents) for d in snapshot.disputes if d.state in ("open", "lost")]
    gone_cents = min(sum(amount_cents for _, _, amount_cents in gone), standing.price_cents)
    remaining = standing.total_credits * gone_cents // standing.price_cents - taken
    fresh = sorted(entry for entry in gone if (entry[0], entry[1]) not in known)
    movements: list[Movement] = []
    for position, (kind, reference, amount_cents) in enumerate(fresh, start=1):
        share = standing.total_credits * amount_cents // standing.price_cents
        amount = remaining if position == len(fresh) else min(share, remaining)
        if amount > 0:
            movements.append(Movement(kind, reference, amount))
            remaining -= amount
    return movements


def live_refunds(snapshot: Snapshot) -> list[ProviderRefund]:
    """The refunds that have taken or are taking money out."""
    return [refund for refund in snapshot.refunds if refund.state in ("pending", "succeeded")]


def _refunded_cents(snapshot: Snapshot) -> int:
    return sum(refund.amount_cents for refund in live_refunds(snapshot))


def _paid_status(standing: Standing, snapshot: Snapshot) -> PaymentStatus:
    disputes = {dispute.state for dispute in snapshot.disputes}
    if "lost" in disputes:
        return "dispute_lost"
    if "open" in disputes:
        return "disputed"
    refunded = _refunded_cents(snapshot)
    if refunded >= standing.price_cents:
        return "refunded"
    return "partially_refunded" if refunded else "settled"
