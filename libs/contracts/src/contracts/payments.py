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
    created_at: datetime
    expires_at: datetime


class CreatePayment(Message, frozen=True, kw_only=True):
    """A user wants to buy a pack. ``payment_id`` makes it happen once; price and credits come from the pack here."""

    subject: ClassVar[str] = "payments.command.create-payment.v1"
    producers: ClassVar[tuple[Service, ...]] = ("gateway",)
    consumers: ClassVar[tuple[Service, ...]] = ("payments", "auditor")

    payment_id: UUID
    user_id: UUID
    provider: Provider
    pack_id: str
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
    """A payment moved to another state. ``payment.status`` names it; ``reason`` says why in a word for the timeline."""

    subject: ClassVar[str] = "payments.event.payment-changed.v1"
    producers: ClassVar[tuple[Service, ...]] = ("payments",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "auditor")

    payment: Payment
    reason: str
    changed_at: datetime
