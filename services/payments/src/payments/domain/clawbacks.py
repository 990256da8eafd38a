"""How a refund or a dispute becomes a clawback of credits, and how credits come back.

The credits that are gone are always those that the lost money was worth: ``total x lost / basis``, rounded down.
A dispute takes the credits when the bank takes the money: when it opens, and not when it is decided. An inquiry
(``warning``) takes nothing. A failed refund and a won dispute return exactly what they took.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from payments.domain.payment_state import RETURN_OF, TAKING, Movement, MovementKind, PaymentState, TakingKind
from payments.domain.snapshots import ProviderDispute, ProviderRefund, Snapshot

_TAKING_OF: Final[Mapping[MovementKind, TakingKind]] = {
    kind: taking for taking, back in RETURN_OF.items() for kind in (taking, back)
}
"""Which taking a movement belongs to: a return belongs to what it returns."""


def corrections(state: PaymentState, snapshot: Snapshot) -> tuple[Movement, ...]:
    """The movements after which the credits that are gone are those that the lost money was worth.

    First comes back what a failed refund or a won dispute had taken. Then new refunds and disputes take their shares,
    rounded down, the last of them the rest; where there is no new one, the last one takes again. Money that came in
    addition brings back what an earlier refund took.
    """
    history = _MovementHistory(state.movements)
    for refund in sorted(snapshot.refunds, key=lambda one: one.reference):
        if refund.state == "failed":
            history.return_credits("refund", refund.reference)
    for dispute in sorted(snapshot.disputes, key=lambda one: one.reference):
        if dispute.state == "won":
            history.return_credits("dispute", dispute.reference)
    basis, lost = basis_cents(state, snapshot), lost_cents(state, snapshot)
    missing = state.total_credits * lost // basis - history.taken
    takings = sorted(_takings(snapshot))
    fresh = [taking for taking in takings if not history.knows(taking[0], taking[1])]
    for position, (kind, reference, amount_cents) in enumerate(fresh, start=1):
        share = missing if position == len(fresh) else state.total_credits * amount_cents // basis
        missing -= history.take(kind, reference, min(share, missing))
    if missing > 0:
        # Only money that went away can be missing: there is a last taking.
        history.take(takings[-1][0], takings[-1][1], missing)
    for kind, reference in history.takers() if missing < 0 else ():
        missing += history.return_credits(kind, reference, -missing)
    return tuple(history.added)


def forgotten_takings(state: PaymentState, snapshot: Snapshot) -> list[str]:
    """The refunds and disputes that have taken credits, and that the provider shows no more, in any state."""
    shown = shown_takings(snapshot)
    return [reference for _, reference in _MovementHistory(state.movements).takers() if reference not in shown]


def with_forgotten(state: PaymentState, snapshot: Snapshot) -> Snapshot:
    """``snapshot``, and what the provider has shown before: the money that had arrived, and the forgotten takings.

    A provider that forgets a refund has not taken it back: its money counts as gone, beside that of later ones. Nor
    has less arrived than was seen: the share that a refund takes is one of all of it.
    """
    forgotten = forgotten_takings(state, snapshot)
    refunds = {one.reference: one for one in state.shown_refunds}
    disputes = {one.reference: one for one in state.shown_disputes}
    return replace(
        snapshot,
        paid_cents=arrived_cents(state.paid_cents, snapshot),
        refunds=(*snapshot.refunds, *(refunds[one] for one in forgotten if one not in disputes)),
        disputes=(*snapshot.disputes, *(disputes[one] for one in forgotten if one in disputes)),
    )


def arrived_cents(before: int, snapshot: Snapshot) -> int:
    """The most that was shown as arrived; ``before`` is that of earlier snapshots.

    What is still on its way is an estimate, and may never arrive.
    """
    return before if snapshot.state == "processing" else max(before, snapshot.paid_cents)


def shown_takings(snapshot: Snapshot) -> list[str]:
    """The refunds and disputes that the provider shows, in any state."""
    return sorted({*(one.reference for one in snapshot.refunds), *(one.reference for one in snapshot.disputes)})


def basis_cents(state: PaymentState, snapshot: Snapshot) -> int:
    """The cents that the credits stand for: the price, or the smaller sum that a person accepted for it."""
    if snapshot.paid_cents <= 0:
        return state.price_cents
    if snapshot.currency != state.currency:
        return snapshot.paid_cents
    return min(snapshot.paid_cents, state.price_cents)


def lost_cents(state: PaymentState, snapshot: Snapshot) -> int:
    """How many cents of the basis are gone. A surplus goes first: returning it costs no credits."""
    basis = basis_cents(state, snapshot)
    kept = max(snapshot.paid_cents, basis) - sum(amount_cents for _, _, amount_cents in _takings(snapshot))
    return min(basis, max(0, basis - kept))


def live_refunds(snapshot: Snapshot) -> list[ProviderRefund]:
    """The refunds that have taken or are taking money out."""
    return [refund for refund in snapshot.refunds if refund.state in ("pending", "succeeded")]


def foreign_takings(snapshot: Snapshot) -> list[str]:
    """What has taken money out in a currency other than the payment's, as text: its share cannot be told."""
    taken: list[ProviderRefund | ProviderDispute] = [*live_refunds(snapshot), *_live_disputes(snapshot)]
    return [
        f"{taking.reference}: {taking.amount_cents} cents {taking.currency}"
        for taking in taken
        if not _is_ours(taking, snapshot)
    ]


def _live_disputes(snapshot: Snapshot) -> list[ProviderDispute]:
    return [dispute for dispute in snapshot.disputes if dispute.state in ("open", "lost")]


def _takings(snapshot: Snapshot) -> list[tuple[TakingKind, str, int]]:
    """Kind, reference and cents of everything that has taken money out in the payment's currency."""
    takings: list[tuple[TakingKind, str, int]] = []
    takings += [("refund", r.reference, r.amount_cents) for r in live_refunds(snapshot) if _is_ours(r, snapshot)]
    takings += [("dispute", d.reference, d.amount_cents) for d in _live_disputes(snapshot) if _is_ours(d, snapshot)]
    return takings


def _is_ours(taking: ProviderRefund | ProviderDispute, snapshot: Snapshot) -> bool:
    return taking.currency == snapshot.currency


class _MovementHistory:
    """The takings and returns of one payment. What one refund does again gets a number: ``re_1``, ``re_1#2``."""

    def __init__(self, movements: Sequence[Movement]) -> None:
        self._movements = [movement for movement in movements if movement.kind in _TAKING_OF]
        self.added: list[Movement] = []

    @property
    def taken(self) -> int:
        """Credits that are gone, all in all."""
        return sum(_signed(movement) for movement in self._movements)

    def knows(self, kind: TakingKind, reference: str) -> bool:
        """Whether this refund or dispute has taken anything yet."""
        return any(self._of(kind, reference))

    def takers(self) -> list[tuple[TakingKind, str]]:
        """Every refund and dispute that has taken something, the last one first."""
        return sorted({_taker(movement) for movement in self._movements}, reverse=True)

    def take(self, kind: TakingKind, reference: str, amount_credits: int) -> int:
        """Take so many credits, if it is any; returns how many."""
        if amount_credits <= 0:
            return 0
        self._add(kind, reference, amount_credits)
        return amount_credits

    def return_credits(self, kind: TakingKind, reference: str, at_most: int | None = None) -> int:
        """Return what this one has taken and not returned, up to ``at_most``; returns how many credits that is."""
        outstanding = sum(_signed(movement) for movement in self._of(kind, reference))
        amount_credits = outstanding if at_most is None else min(outstanding, at_most)
        if amount_credits <= 0:
            return 0
        self._add(RETURN_OF[kind], reference, amount_credits)
        return amount_credits

    def _add(self, kind: MovementKind, reference: str, amount_credits: int) -> None:
        before = sum(1 for movement in self._of(_TAKING_OF[kind], reference) if movement.kind == kind)
        numbered = reference if before == 0 else f"{reference}#{before + 1}"
        movement = Movement(kind, numbered, amount_credits)
        self._movements.append(movement)
        self.added.append(movement)

    def _of(self, kind: TakingKind, reference: str) -> list[Movement]:
        return [movement for movement in self._movements if _taker(movement) == (kind, reference)]


def _taker(movement: Movement) -> tuple[TakingKind, str]:
    """The refund or dispute that a movement belongs to."""
    return _TAKING_OF[movement.kind], movement.reference.partition("#")[0]


def _signed(movement: Movement) -> int:
    return movement.amount_credits if movement.kind in TAKING else -movement.amount_credits
