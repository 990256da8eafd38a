"""The rows of payments as values: what the repository reads and writes, and what everything above it decides on."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from contracts.payments import PaymentReviewCode, PaymentStatus, Provider
from payments.domain.payment_state import MovementKind, Resolution
from payments.domain.snapshots import RefundState

ReviewResolution = Resolution | Literal["healed"]
"""``healed``: what the review reported is no longer so, without a decision."""
EventSource = Literal["webhook", "sweep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRecord:
    """One payment. ``version`` grows with every change; prices are in cents of ``currency``."""

    payment_id: UUID
    user_id: UUID
    version: int
    provider: Provider
    provider_reference: str | None
    """The checkout at the provider; None until the provider has answered."""
    charge_reference: str | None
    status: PaymentStatus
    resolution: Resolution | None
    pack_id: str
    price_cents: int
    currency: str
    credits: int
    bonus_credits: int
    refunded_cents: int
    paid_cents: int
    """The most that the provider has shown to have arrived, in its currency."""
    checkout_url: str | None
    return_url: str | None
    """Where the provider sends the buyer afterwards; None for the address of the settings."""
    receipt_url: str | None
    """The provider's receipt, once there is one."""
    detail: str | None
    created_at: datetime
    expires_at: datetime
    settled_at: datetime | None
    next_poll_at: datetime | None
    """When the provider must be polled next; None if only a hint or the daily comparison does it."""
    poll_count: int
    hint_count: int
    """Grows with every hint, so that a hint during a poll is not lost."""
    traceparent: str | None = None
    """The trace of the request that began the payment."""

    @property
    def title(self) -> str:
        """What the buyer reads on the provider's page."""
        return f"{self.credits + self.bonus_credits} credits"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRecord:
    """One refund: requested here by an operator, or found at the provider."""

    refund_id: UUID
    payment_id: UUID
    provider: Provider
    provider_reference: str | None
    """None until the provider has confirmed a refund that we requested."""
    amount_cents: int
    state: RefundState
    actor: str
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewRecord:
    """One question for a person, with both sides shown, and the decision once there is one."""

    review_id: UUID
    payment_id: UUID | None
    code: PaymentReviewCode
    reference: str
    expected: str
    found: str
    opened_at: datetime
    resolved_at: datetime | None
    resolution: ReviewResolution | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpostedMovement:
    """A credit movement that billing has not confirmed."""

    movement_id: UUID
    payment_id: UUID
    kind: MovementKind
    amount_credits: int
    requested_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledPayment:
    """A payment that is paid as far as we know."""

    payment_id: UUID
    status: PaymentStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One round of a sweep: everything up to ``read_until`` was seen before; this round began at ``started_at``."""

    name: str
    read_until: datetime
    started_at: datetime
