"""BTCPay Server, self-hosted: invoices of the Greenfield API.

BTCPay judges confirmations by the store's own policy; ``Settled`` is its last word. An invoice that expired half paid,
or was paid after its time, is never credited by itself: a person decides.
"""

import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, ClassVar, Final
from uuid import UUID

import msgspec

from contracts.payments import PaymentMismatch, Provider
from payments.domain.records import PaymentRecord
from payments.domain.snapshots import Checkout, CheckoutState, ProviderEvent, Snapshot
from payments.errors import InvalidWebhookSignature, ProviderRefused
from payments.providers.http_calls import call_json, provider_client
from payments.providers.reading import Text, skipping_unreadable, uuid_or_none
from payments.settings import Settings, plain_secrets, required
from service_runtime.database_watch import DatabaseClock

_STATES: dict[str, CheckoutState] = {
    "New": "open",
    "Processing": "processing",
    "Settled": "paid",
    "Expired": "expired",
    "Invalid": "failed",
}
_INVOICE_ID: Final = re.compile("[A-Za-z0-9_-]+")
"""What stands in an address as it is: a webhook says the id, and no other address of the server is to be asked."""
_MISMATCHES: dict[str, PaymentMismatch] = {"PaidPartial": "underpaid", "PaidLate": "late", "PaidOver": "overpaid"}


class _Delivery(msgspec.Struct):
    """The part of a webhook body that every type of event has."""

    deliveryId: Text
    type: Text
    originalDeliveryId: Text | None = None


class _InvoiceDelivery(_Delivery, kw_only=True):
    """What an event about an invoice has besides."""

    invoiceId: Text
    metadata: dict[str, Any] | None = None


class _Invoice(msgspec.Struct):
    """The part of an invoice that the money depends on."""

    id: Text
    status: str
    currency: Text
    amount: Decimal | None = None
    """None if the buyer decides how much to pay, as on invoices that are not ours."""
    additionalStatus: str | None = None


class _PaymentMethod(msgspec.Struct):
    """What arrived by one method, in its coin, and the invoice's currency per coin."""

    paymentMethodPaid: Decimal
    rate: Decimal


class _Opened(msgspec.Struct):
    """An invoice that the buyer can pay."""

    id: Text
    checkoutLink: Text


class BtcPay:
    """One store of a BTCPay Server."""

    name: ClassVar[Provider] = "btcpay"
    max_webhook_bytes: ClassVar[int] = 64 * 1024
    refunds_by_api: ClassVar[bool] = False

    def __init__(
        self, base_url: str, api_key: str, store_id: str, webhook_secrets: tuple[str, ...], success_url: str
    ) -> None:
        self._client = provider_client(base_url, {"Authorization": f"token {api_key}"})
        self._invoices = f"/api/v1/stores/{store_id}/invoices"
        self._webhook_secrets = webhook_secrets
        self._success_url = success_url

    @classmethod
    def from_settings(cls, settings: Settings, _clock: DatabaseClock) -> "BtcPay":
        """The adapter, connected to nothing yet."""
        return cls(
            base_url=required(settings.btcpay_url),
            api_key=required(settings.btcpay_api_key).get_secret_value(),
            store_id=required(settings.btcpay_store_id),
            webhook_secrets=plain_secrets(settings.btcpay_webhook_secrets),
            success_url=settings.checkout_success_url,
        )

    async def open_checkout(self, payment: PaymentRecord) -> Checkout:
        """Find the invoice with our order id, or create it: Greenfield has no idempotency key."""
        found = await call_json(self._client, "GET", self._invoices, params={"orderId": str(payment.payment_id)})
        if found:
            return _checkout(found[0])
        minutes = max(5, int((payment.expires_at - payment.created_at).total_seconds() // 60))
        invoice = await call_json(
            self._client,
            "POST",
            self._invoices,
            json={
                "amount": _amount(payment.price_cents),
                "currency": payment.currency.upper(),
                "metadata": {"orderId": str(payment.payment_id), "itemDesc": payment.title},
                "checkout": {"expirationMinutes": minutes, "redirectURL": payment.return_url or self._success_url},
            },
        )
        return _checkout(invoice)

    async def look_up(self, payment: PaymentRecord) -> Snapshot:
        """The invoice, and what arrived for it over all payment methods."""
        if payment.provider_reference is None:
            raise ProviderRefused("no invoice was created yet")
        found = await call_json(self._client, "GET", f"{self._invoices}/{payment.provider_reference}")
        return await self._snapshot(msgspec.convert(found, _Invoice))

    async def _snapshot(self, invoice: _Invoice) -> Snapshot:
        paid_cents = 0
        mismatch = _MISMATCHES.get(invoice.additionalStatus or "None")
        if invoice.status in ("Settled", "Processing") or mismatch is not None:
            # A method also has a ``totalPaid``, which is what came by all methods together, in that method's coin.
            found = await call_json(self._client, "GET", f"{self._invoices}/{invoice.id}/payment-methods")
            methods = msgspec.convert(found, list[_PaymentMethod])
            paid_cents = _cents(sum((method.paymentMethodPaid * method.rate for method in methods), Decimal(0)))
        state = _STATES.get(invoice.status, "processing")
        if state == "paid" and mismatch is None and invoice.amount is not None:
            # Settled in full by BTCPay's judgement: rounding of coins must not turn that into an underpayment.
            paid_cents = _cents(invoice.amount)
        return Snapshot(
            reference=invoice.id,
            state=state,
            paid_cents=paid_cents,
            currency=invoice.currency.lower(),
            mismatch=mismatch,
        )

    async def refund(self, payment: PaymentRecord, refund_id: UUID, amount_cents: int) -> str:
        """Crypto goes back to an address that only the buyer can give: an operator does it and records it here."""
        raise ProviderRefused("crypto refunds are paid out by an operator and then recorded")

    def prove_webhook(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check ``BTCPay-Sig: sha256=HMAC-SHA256(body)``."""
        given = headers.get("btcpay-sig", "")
        expected = [f"sha256={hmac.new(s.encode(), body, hashlib.sha256).hexdigest()}" for s in self._webhook_secrets]
        if not any(hmac.compare_digest(given.encode(), one.encode()) for one in expected):
            raise InvalidWebhookSignature("BTCPay-Sig is missing or was not made with an active secret")

    def read_webhook(self, body: bytes) -> ProviderEvent | None:
        """Redeliveries carry the id of the first delivery. Events about payouts and the like name no invoice."""
        if not msgspec.json.decode(body, type=_Delivery).type.startswith("Invoice"):
            return None
        delivery = msgspec.json.decode(body, type=_InvoiceDelivery)
        return ProviderEvent(
            event_id=delivery.originalDeliveryId or delivery.deliveryId,
            event_type=delivery.type,
            payment_id=uuid_or_none((delivery.metadata or {}).get("orderId")),
            reference=delivery.invoiceId,
            body=body,
        )

    async def find_payment(self, event: ProviderEvent) -> UUID | None:
        """The invoice carries our payment's id as its order id."""
        if event.reference is None or not _INVOICE_ID.fullmatch(event.reference):
            return None
        return _order_id(await call_json(self._client, "GET", f"{self._invoices}/{event.reference}"))

    async def missed_events(self, since: datetime) -> AsyncIterator[ProviderEvent]:
        """BTCPay keeps no list of failed deliveries across webhooks: open payments are looked up instead."""
        nothing: tuple[ProviderEvent, ...] = ()
        for event in nothing:
            yield event

    async def close(self) -> None:
        """Let the connections go."""
        await self._client.aclose()

    async def recent_payments(self, since: datetime) -> AsyncIterator[tuple[UUID | None, Snapshot | None]]:
        """Every invoice created since then."""
        page_size, skip = 100, 0
        while True:
            parameters = {"startDate": int(since.timestamp()), "skip": skip, "take": page_size}
            invoices = await call_json(self._client, "GET", self._invoices, params=parameters)
            for invoice in invoices:
                snapshot = None
                with skipping_unreadable(self.name, invoice.get("id")):
                    snapshot = await self._snapshot(msgspec.convert(invoice, _Invoice))
                yield _order_id(invoice), snapshot
            if len(invoices) < page_size:
                return
            skip += page_size


def _amount(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _cents(amount: Decimal) -> int:
    return int((amount * 100).quantize(Decimal(1), ROUND_HALF_UP))


def _checkout(invoice: object) -> Checkout:
    opened = msgspec.convert(invoice, _Opened)
    return Checkout(reference=opened.id, url=opened.checkoutLink)


def _order_id(invoice: Any) -> UUID | None:
    """Our payment's id, also from an invoice that is otherwise unreadable."""
    return uuid_or_none((invoice.get("metadata") or {}).get("orderId"))
