"""What a provider's present view of a payment means for the money. Pure: no input, no output.

Webhooks are hints. Whatever they say, the payment is looked up at its provider, and the whole state found there is
folded into ours by ``advance``. It depends on that state alone: events that are repeated, reordered, late or lost
lead to the same end.
"""

from collections.abc import Mapping, Sequence
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
        "paid_after_dismissal",  # a person had decided that it is worth nothing, and now all of it is there
        "look_refused",  # the provider will not show a payment whose checkout it opened
        "refund_refused",  # the provider will not make a refund that was ordered
        "no_longer_paid",  # credited here, and the provider does not call it paid any more
    ]
)
RefundState = Literal["requested", "pending", "succeeded", "failed"]
DisputeState = Literal["warning", "open", "won", "lost"]
MovementKind = Literal["purchase", "bonus", "refund", "refund_failed", "dispute", "dispute_won"]
Resolution = Literal["credited", "dismissed"]

TakingKind = Literal["refund", "dispute"]
TAKING: frozenset[MovementKind] = frozenset({"refund", "dispute"})
RETURNING: frozenset[MovementKind] = frozenset({"refund_failed", "dispute_won"})
RETURN_OF: Mapping[TakingKind, MovementKind] = {"refund": "refund_failed", "dispute": "dispute_won"}


@dataclass(frozen=True)
class ProviderRefund:
    """A refund as the provider shows it; ``pending`` ones count: the money is on its way out."""

    reference: str
    amount_cents: int
    state: RefundState
    refund_id: UUID | None = None  # ours, if we ordered it


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
    refunded_cents: int = 0
    movements: tuple[Movement, ...] = ()
    resolution: Resolution | None = None
    decided: frozenset[tuple[str, str]] = frozenset()
    """The reviews that a person has decided: what each was about and what it had found."""

    @property
    def credited(self) -> bool:
        """Whether its credits were given, by what was paid or by a person."""
        return any(movement.kind == "purchase" for movement in self.movements)

    @property
    def total_credits(self) -> int:
        """Bought and bonus credits together: what a full refund takes back."""
        return self.credits + self.bonus_credits

    @property
    def was_credited(self) -> bool:
        """Whether its pack was granted because it was paid, and not because a person decided so."""
        return self.resolution is None and self.credited


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
    if standing.resolution == "dismissed":
        return _dismissed(standing, snapshot)
    review = _review_of(standing, snapshot)
    if not standing.credited and standing.resolution is None:
        if review is not None and review.code != "overpaid":
            return Advance(status="review", refunded_cents=0, reason=review.code, review=review)
        if snapshot.state != "paid":
            return _unpaid(standing, snapshot)
    if _shows_less(standing, snapshot):
        # A provider that forgets a refund has not taken it back; the daily comparison reports it.
        return Advance(status=standing.status, refunded_cents=standing.refunded_cents, reason="unchanged")
    # Credited once, whatever the state there is now: an invoice that a person made good stays expired for ever.
    granted = _grants(standing)
    status = _paid_status(standing, snapshot)
    return Advance(
        status=status,
        refunded_cents=_refunded_cents(snapshot),
        reason={"settled": "paid"}.get(status, status),
        movements=(*granted, *_corrections(standing, snapshot)),
        review=review if review is not None and review.code == "overpaid" else None,
    )


def _dismissed(standing: Standing, snapshot: Snapshot) -> Advance:
    """A person decided on what was there then. What is there now, if it is something else, is decided on anew."""
    review = _review_of(standing, snapshot)
    if review is None and snapshot.state == "paid":
        review = Review("paid_after_dismissal", _price(standing), _arrived(snapshot))
    if review is None or (review.code, review.found) in standing.decided:
        return Advance(status="failed", refunded_cents=0, reason="dismissed")
    return Advance(status="review", refunded_cents=0, reason=review.code, review=review)


def _unpaid(standing: Standing, snapshot: Snapshot) -> Advance:
    status: PaymentStatus = "pending"
    if snapshot.state in ("expired", "failed"):
        status = snapshot.state
    reason = "processing" if snapshot.state == "processing" else status
    return Advance(status=status, refunded_cents=0, reason=reason)


def _review_of(standing: Standing, snapshot: Snapshot) -> Review | None:
    """What does not match about the money that is there, if any is."""
    code: ReviewCode | None = snapshot.mismatch
    if code is None and snapshot.state != "paid":
        return None
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


def _shows_less(standing: Standing, snapshot: Snapshot) -> bool:
    """Whether a refund or dispute that has taken credits is not among those that the provider shows, in any state."""
    shown = {refund.reference for refund in snapshot.refunds} | {dispute.reference for dispute in snapshot.disputes}
    return any(reference not in shown for _, reference in _Book(standing.movements).takers())


def _corrections(standing: Standing, snapshot: Snapshot) -> list[Movement]:
    """What makes the credits that are gone those that the money which is gone was worth, to the credit.

    First what a failed refund or a won dispute had taken comes back. Then new refunds and disputes take their shares,
    rounded down, the last of them the rest; where there is no new one, the last one takes again. Money that came in
    addition brings back what an earlier refund took.
    """
    book = _Book(standing.movements)
    for refund in sorted(snapshot.refunds, key=lambda one: one.reference):
        if refund.state == "failed":
            book.give_back("refund", refund.reference)
    for dispute in sorted(snapshot.disputes, key=lambda one: one.reference):
        if dispute.state == "won":
            book.give_back("dispute", dispute.reference)
    basis, lost = _basis(standing, snapshot), lost_cents(standing, snapshot)
    missing = standing.total_credits * lost // basis - book.taken
    gone = sorted(_gone(snapshot))
    fresh = [entry for entry in gone if not book.knows(entry[0], entry[1])]
    for position, (kind, reference, amount_cents) in enumerate(fresh, start=1):
        share = missing if position == len(fresh) else standing.total_credits * amount_cents // basis
        missing -= book.take(kind, reference, min(share, missing))
    if missing > 0:
        # Only money that went away can be missing: there is a last one.
        book.take(gone[-1][0], gone[-1][1], missing)
    for kind, reference in book.takers() if missing < 0 else ():
        missing += book.give_back(kind, reference, -missing)
    return book.ordered


class _Book:
    """Takings and returns of one payment. What one refund or dispute does again gets a number: ``re_1``, ``re_1#2``."""

    def __init__(self, movements: Sequence[Movement]) -> None:
        self._movements = [movement for movement in movements if movement.kind in TAKING | RETURNING]
        self.ordered: list[Movement] = []

    @property
    def taken(self) -> int:
        """Credits that are gone, all in all."""
        return sum(self._signed(movement) for movement in self._movements)

    def knows(self, kind: TakingKind, reference: str) -> bool:
        """Whether this refund or dispute has taken anything yet."""
        return any(self._of(kind, reference))

    def takers(self) -> list[tuple[TakingKind, str]]:
        """Every refund and dispute that has taken something, the last one first."""
        return sorted(
            {(_taking(movement.kind), movement.reference.partition("#")[0]) for movement in self._movements},
            reverse=True,
        )

    def take(self, kind: TakingKind, reference: str, amount_credits: int) -> int:
        """Take so much, if it is anything; returns it."""
        if amount_credits <= 0:
            return 0
        self._order(kind, reference, amount_credits)
        return amount_credits

    def give_back(self, kind: TakingKind, reference: str, at_most: int | None = None) -> int:
        """Return what this one has taken and not returned, up to ``at_most``; returns how much that is."""
        outstanding = sum(self._signed(movement) for movement in self._of(kind, reference))
        amount_credits = outstanding if at_most is None else min(outstanding, at_most)
        if amount_credits <= 0:
            return 0
        self._order(RETURN_OF[kind], reference, amount_credits)
        return amount_credits

    def _order(self, kind: MovementKind, reference: str, amount_credits: int) -> None:
        before = sum(1 for movement in self._of(_taking(kind), reference) if movement.kind == kind)
        named = reference if before == 0 else f"{reference}#{before + 1}"
        movement = Movement(kind, named, amount_credits)
        self._movements.append(movement)
        self.ordered.append(movement)

    def _of(self, kind: TakingKind, reference: str) -> list[Movement]:
        return [
            movement
            for movement in self._movements
            if _taking(movement.kind) == kind and movement.reference.partition("#")[0] == reference
        ]

    @staticmethod
    def _signed(movement: Movement) -> int:
        return movement.amount_credits if movement.kind in TAKING else -movement.amount_credits


def _taking(kind: MovementKind) -> TakingKind:
    return "refund" if kind in ("refund", "refund_failed") else "dispute"


def _gone(snapshot: Snapshot) -> list[tuple[TakingKind, str, int]]:
    gone: list[tuple[TakingKind, str, int]] = []
    gone += [("refund", refund.reference, refund.amount_cents) for refund in live_refunds(snapshot)]
    gone += [("dispute", d.reference, d.amount_cents) for d in snapshot.disputes if d.state in ("open", "lost")]
    return gone


def _basis(standing: Standing, snapshot: Snapshot) -> int:
    """The cents that the credits stand for: the price, or what a person took for it."""
    if snapshot.paid_cents <= 0:
        return standing.price_cents
    if snapshot.currency != standing.currency:
        return snapshot.paid_cents
    return min(snapshot.paid_cents, standing.price_cents)


def lost_cents(standing: Standing, snapshot: Snapshot) -> int:
    """How much of what the credits stand for is gone. A surplus goes first: returning it costs no credits."""
    basis = _basis(standing, snapshot)
    kept = max(snapshot.paid_cents, basis) - sum(amount_cents for _, _, amount_cents in _gone(snapshot))
    return min(basis, max(0, basis - kept))


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
    lost = lost_cents(standing, snapshot)
    if lost >= _basis(standing, snapshot):
        return "refunded"
    return "partially_refunded" if lost else "settled"
