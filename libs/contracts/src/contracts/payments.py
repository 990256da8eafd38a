"""What payments announces, and the commands it takes."""

from datetime import datetime
from typing import ClassVar, Final, Literal, get_args
from uuid import UUID

import msgspec

from contracts.message import Message, Service

Provider = Literal["stripe", "btcpay", "nowpayments"]
"""The only list of payment providers: everything else is a table keyed by it, or derived from it."""
PROVIDERS: Final[tuple[Provider, ...]] = get_args(Provider)

PaymentStatus = Literal[
    "created",  # known here; the provider has not answered yet
    "pending",  # the user can pay at checkout_url
    "settled",  # paid and confirmed by asking the provider; credits are granted
    "failed",
    "expired",
    "review",  # paid, but not as asked (under, over, late): an operator decides
    "partially_refunded",
    "refunded",
    "disputed",
    "dispute_lost",
]

PaymentMismatch = Literal["underpaid", "overpaid", "late", "amount_mismatch"]
"""How a payment that arrived differs from what was asked."""

PaymentReviewCode = Literal[
    PaymentMismatch,
    "early_fraud_warning",  # the card's bank expects a dispute
    "unknown_payment",  # paid at the provider, and no payment of ours
    "difference",  # the provider's view and ours do not agree
    "missing_at_provider",  # settled or taken back here, and the provider does not show it
    "unposted",  # credits were requested of billing and are not in the ledger
    "no_checkout",  # money or an event for a payment that never got its checkout
    "paid_after_dismissal",  # a person had decided that it is worth nothing, and now all of it is there
    "look_refused",  # the provider does not show a payment whose checkout it opened
    "refund_refused",  # the provider does not make a refund that was requested
    "taken_in_another_currency",  # a refund or dispute whose share of the price cannot be told
    "unreadable_event",  # signed by the provider, and not of the documented shape
    "no_longer_paid",  # credited here, and the provider does not call it paid any more
]
"""What only a person can decide about a payment."""

PaymentChangeReason = Literal[
    PaymentStatus,
    PaymentReviewCode,
    "checkout_opened",
    "processing",  # the provider has the money, and it is not confirmed yet
    "paid",
    "provider_refused",  # the provider opened no checkout
    "unchanged",  # of older releases: only what we know of the provider's side changed
    "review_credited",
    "review_dismissed",
    "dismissed",
]
"""Why a payment changed, in a word for its timeline."""

PaymentRefusalCode = Literal["too_many_open_payments", "unknown_pack", "provider_disabled"]


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """A payment as its owner sees it. ``version`` only grows: a reader keeps the highest."""

    payment_id: UUID
    user_id: UUID
    version: int
    provider: Provider
    status: PaymentStatus
    pack_id: str
    price_cents: int
    currency: str
    credits: int
    bonus_credits: int
    refunded_cents: int = 0
    checkout_url: str | None = None
    detail: str | None = None
    receipt_url: str | None = None
    created_at: datetime
    expires_at: datetime


class CreatePayment(Message, frozen=True, kw_only=True):
    """A user wants to buy a pack. ``payment_id`` makes it happen once; price and credits come from the pack here.

    ``return_url`` is where the provider sends the user afterwards, paid or not; the gateway has checked its origin.
    """

    subject: ClassVar[str] = "payments.command.create-payment.v1"
    producers: ClassVar[tuple[Service, ...]] = ("gateway",)
    consumers: ClassVar[tuple[Service, ...]] = ("payments", "auditor")

    payment_id: UUID
    user_id: UUID
    provider: Provider
    pack_id: str
    return_url: str | None = None
    requested_at: datetime


class PaymentRefused(Message, frozen=True, kw_only=True):
    """A payment was not begun; nothing was asked of a provider."""

    subject: ClassVar[str] = "payments.event.payment-refused.v1"
    producers: ClassVar[tuple[Service, ...]] = ("payments",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "auditor")

    payment_id: UUID
    user_id: UUID
    code: PaymentRefusalCode
    detail: str


class PaymentChanged(Message, frozen=True, kw_only=True):
    """A payment moved to another state. ``payment.status`` names it; ``reason`` says why."""

    subject: ClassVar[str] = "payments.event.payment-changed.v1"
    producers: ClassVar[tuple[Service, ...]] = ("payments",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "auditor")

    payment: Payment
    reason: PaymentChangeReason
    changed_at: datetime
