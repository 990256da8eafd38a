"""What we know of a payment before a snapshot is applied: its price, its credit movements, its decisions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from contracts.payments import PaymentReviewCode, PaymentStatus
from payments.domain.snapshots import ProviderDispute, ProviderRefund

Resolution = Literal["credited", "dismissed"]

TakingKind = Literal["refund", "dispute"]
MovementKind = Literal["purchase", "bonus", TakingKind, "refund_failed", "dispute_won"]
TAKING: Final[frozenset[MovementKind]] = frozenset({"refund", "dispute"})
RETURN_OF: Final[Mapping[TakingKind, MovementKind]] = {"refund": "refund_failed", "dispute": "dispute_won"}


@dataclass(frozen=True, slots=True)
class Movement:
    """Credits that moved, or are to move, for a payment. ``(payment, kind, reference)`` is its identity."""

    kind: MovementKind
    reference: str
    amount_credits: int


@dataclass(frozen=True, slots=True)
class Review:
    """Something that only a person can decide, with both sides shown."""

    code: PaymentReviewCode
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class PaymentState:
    """What we know of a payment before a snapshot is applied."""

    status: PaymentStatus
    price_cents: int
    currency: str
    credits: int
    bonus_credits: int
    paid_cents: int = 0
    """The most that the provider has shown as arrived."""
    movements: tuple[Movement, ...] = ()
    shown_refunds: tuple[ProviderRefund, ...] = ()
    shown_disputes: tuple[ProviderDispute, ...] = ()
    """Both as the provider showed them last, those included that it shows no more."""
    resolution: Resolution | None = None
    decided: frozenset[tuple[PaymentReviewCode, str]] = frozenset()
    """The reviews that a person has decided: what each was about, and what it had found."""

    @property
    def credited(self) -> bool:
        """Whether its credits were granted, because it was paid or because a person decided so."""
        return any(movement.kind == "purchase" for movement in self.movements)

    @property
    def credited_as_paid(self) -> bool:
        """Whether its credits were granted because it was paid, and not because a person decided so."""
        return self.resolution is None and self.credited

    @property
    def total_credits(self) -> int:
        """Bought and bonus credits together: what a full refund takes back."""
        return self.credits + self.bonus_credits


def pack_movements(credits: int, bonus_credits: int) -> tuple[Movement, ...]:
    """What grants a pack: the bought credits and, where there are any, the bonus."""
    bonus = (Movement("bonus", "", bonus_credits),) if bonus_credits else ()
    return (Movement("purchase", "", credits), *bonus)
