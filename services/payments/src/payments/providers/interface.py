"""What every payment provider can do for us."""

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

import structlog
from prometheus_client import Counter

from contracts.payments import Provider
from payments.domain import Snapshot

log = structlog.get_logger(__name__)

unreadable_total = Counter("payments_unreadable_objects_total", "Provider objects that were left out.", ["provider"])


@contextlib.contextmanager
def skipping_unreadable(provider: Provider, reference: object) -> Iterator[None]:
    """One object that is not of its provider's documented shape is logged, counted and left out."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        unreadable_total.labels(provider).inc()
        log.exception("unreadable_object", provider=provider, reference=str(reference))


@dataclass(frozen=True)
class Order:
    """What a checkout is opened for, and how it is found again."""

    payment_id: UUID
    user_id: UUID
    title: str
    price_cents: int
    currency: str
    created_at: datetime
    expires_at: datetime
    provider_reference: str | None
    charge_reference: str | None
    tries: int = 1  # this one included


@dataclass(frozen=True)
class Checkout:
    """Where the user pays. ``expires_at`` is the provider's own limit where it has one."""

    reference: str
    url: str


@dataclass(frozen=True)
class ProviderEvent:
    """A webhook or a listed event, reduced to what finds its payment.

    ``payment_id`` where the body carries our own id; else ``reference`` names the provider's object. ``body`` is raw.
    """

    event_id: str
    event_type: str
    payment_id: UUID | None
    reference: str | None
    body: bytes


class PaymentProvider(Protocol):
    """One provider. Every method that calls out raises ``ProviderUnavailable`` where repeating may help, and
    ``ProviderRefused`` where it cannot."""

    name: Provider

    async def open_checkout(self, order: Order) -> Checkout:
        """Open the one checkout of this payment; calling it again finds the same one."""
        ...

    async def look_up(self, order: Order) -> Snapshot:
        """The whole present state of a payment whose ``provider_reference`` is known."""
        ...

    async def refund(self, order: Order, refund_id: UUID, amount_cents: int) -> str:
        """Give money back; returns the provider's reference. Calling it again with the same id refunds once."""
        ...

    def read_webhook(self, headers: Mapping[str, str], body: bytes) -> ProviderEvent:
        """Prove and parse a webhook. Raises ``InvalidWebhookSignature`` or ``MalformedWebhook``."""
        ...

    async def find_payment(self, event: ProviderEvent) -> UUID | None:
        """Our payment's id for an event whose body does not carry it; None if it is not ours."""
        ...

    def missed_events(self, since: datetime) -> AsyncIterator[ProviderEvent]:
        """What the provider has to tell since then, delivered or not; empty where it keeps no such list."""
        ...

    async def close(self) -> None:
        """Let the connections go."""
        ...

    def recent_payments(self, since: datetime) -> AsyncIterator[tuple[UUID | None, Snapshot | None]]:
        """Every payment that the provider knows of since then, for the daily comparison; None if it is unreadable."""
        ...
