"""NOWPayments, hosted: an invoice for each payment, under which the buyer may make several payments in coins."""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, ClassVar, Final
from uuid import UUID

import httpx
import msgspec

from contracts.payments import Provider
from payments.domain.records import PaymentRecord
from payments.domain.snapshots import Checkout, Mismatch, ProviderEvent, ProviderRefund, Snapshot
from payments.errors import InvalidWebhookSignature, MalformedWebhook, ProviderRefused
from payments.providers.http_calls import call_json
from payments.providers.reading import skipping_unreadable, uuid_or_none
from payments.settings import Settings, plain_secrets, required

UNDERPAID_BELOW: Final = Decimal("0.99")
OVERPAID_FROM: Final = Decimal("1.01")
"""Coins are divisible and fees vary: within one percent, it is the price."""


class _Coin(msgspec.Struct):
    """One payment in coins under an invoice. Amounts are null as long as they are not known."""

    payment_id: int | str
    payment_status: str
    price_amount: Decimal
    price_currency: str
    pay_amount: Decimal | None = None
    actually_paid: Decimal | None = None
    invoice_id: int | str | None = None


class _Invoice(msgspec.Struct):
    """An invoice that the buyer can pay."""

    id: int | str
    invoice_url: str


class NowPayments:
    """One NOWPayments account. Listing needs its login besides the API key, by the provider's design."""

    name: ClassVar[Provider] = "nowpayments"
    refunds_by_api: ClassVar[bool] = False

    def __init__(
        self,
        base_url: str,
        api_key: str,
        ipn_secrets: tuple[str, ...],
        email: str,
        password: str,
        ipn_callback_url: str,
        success_url: str,
    ) -> None:
        self._client = httpx.AsyncClient(base_url=base_url, headers={"x-api-key": api_key}, timeout=httpx.Timeout(15.0))
        self._ipn_secrets = ipn_secrets
        self._login = {"email": email, "password": password}
        self._ipn_callback_url = ipn_callback_url
        self._success_url = success_url

    @classmethod
    def from_settings(cls, settings: Settings) -> "NowPayments":
        """The adapter, connected to nothing yet."""
        return cls(
            base_url=settings.nowpayments_url,
            api_key=required(settings.nowpayments_api_key).get_secret_value(),
            ipn_secrets=plain_secrets(settings.nowpayments_ipn_secrets),
            email=required(settings.nowpayments_email),
            password=required(settings.nowpayments_password).get_secret_value(),
            ipn_callback_url=f"{settings.public_base_url.rstrip('/')}/webhooks/{cls.name}",
            success_url=settings.checkout_success_url,
        )

    async def open_checkout(self, payment: PaymentRecord) -> Checkout:
        """Create an invoice under our payment's id.

        There is no idempotency key and no search by order id. If an answer is lost, a second invoice is created: the
        buyer only ever gets the address of that one, and the first stays unused.
        """
        invoice = await call_json(
            self._client,
            "POST",
            "/v1/invoice",
            json={
                "price_amount": float(Decimal(payment.price_cents) / 100),
                "price_currency": payment.currency,
                "order_id": str(payment.payment_id),
                "order_description": payment.title,
                "ipn_callback_url": self._ipn_callback_url,
                "success_url": self._success_url,
            },
        )
        opened = msgspec.convert(invoice, _Invoice)
        return Checkout(reference=str(opened.id), url=opened.invoice_url)

    async def look_up(self, payment: PaymentRecord) -> Snapshot:
        """All coin payments under the invoice, taken together."""
        if payment.provider_reference is None:
            raise ProviderRefused("no invoice was created yet")
        listed = [coin async for coin in self._list({"invoiceId": payment.provider_reference})]
        ours = [coin for coin in listed if coin.get("order_id") == str(payment.payment_id)]
        return _snapshot(payment.provider_reference, payment.currency, msgspec.convert(ours, list[_Coin]))

    async def refund(self, payment: PaymentRecord, refund_id: UUID, amount_cents: int) -> str:
        """Crypto goes back to an address that only the buyer can give: an operator does it and records it here."""
        raise ProviderRefused("crypto refunds are paid out by an operator and then recorded")

    def read_webhook(self, headers: Mapping[str, str], body: bytes) -> ProviderEvent:
        """Check ``x-nowpayments-sig``, an HMAC-SHA512 over the body with its keys sorted.

        The provider sends no event id: the digest of the body stands for it, so that a repetition is known as one.
        """
        try:
            notification = json.loads(body, parse_float=_Raw, parse_int=_Raw)
            canonical = _canonical(notification).encode()
        except (ValueError, RecursionError) as error:
            raise MalformedWebhook("the body is not JSON") from error
        if not isinstance(notification, dict):
            raise MalformedWebhook("the body is not a JSON object")
        given = headers.get("x-nowpayments-sig", "")
        expected = [hmac.new(secret.encode(), canonical, hashlib.sha512).hexdigest() for secret in self._ipn_secrets]
        if not any(hmac.compare_digest(given.encode(), one.encode()) for one in expected):
            raise InvalidWebhookSignature("x-nowpayments-sig is missing or was not made with an active secret")
        return ProviderEvent(
            event_id=hashlib.sha256(canonical).hexdigest(),
            event_type=f"payment.{notification.get('payment_status')}",
            payment_id=uuid_or_none(notification.get("order_id")),
            reference=str(notification.get("payment_id")),
            body=body,
        )

    async def find_payment(self, event: ProviderEvent) -> UUID | None:
        """The coin payment carries our payment's id as its order id."""
        if event.reference is None:
            return None
        coin = await call_json(self._client, "GET", f"/v1/payment/{event.reference}")
        return uuid_or_none(coin.get("order_id"))

    async def missed_events(self, since: datetime) -> AsyncIterator[ProviderEvent]:
        """NOWPayments keeps no list of failed notifications: open payments are looked up instead."""
        nothing: tuple[ProviderEvent, ...] = ()
        for event in nothing:
            yield event

    async def close(self) -> None:
        """Let the connections go."""
        await self._client.aclose()

    async def recent_payments(self, since: datetime) -> AsyncIterator[tuple[UUID | None, Snapshot | None]]:
        """Every invoice that received coins since then."""
        by_order: dict[str, list[dict[str, Any]]] = {}
        async for coin in self._list({"dateFrom": since.date().isoformat()}):
            # A deposit without an order id belongs to no payment, and not to the other deposits without one either.
            by_order.setdefault(str(coin.get("order_id") or f"coin {coin['payment_id']}"), []).append(coin)
        for order_id, listed in by_order.items():
            snapshot = None
            with skipping_unreadable(self.name, order_id):
                coins = msgspec.convert(listed, list[_Coin])
                snapshot = _snapshot(str(coins[0].invoice_id or coins[0].payment_id), coins[0].price_currency, coins)
            yield uuid_or_none(order_id), snapshot

    async def _list(self, filters: dict[str, str]) -> AsyncIterator[dict[str, Any]]:
        token = (await call_json(self._client, "POST", "/v1/auth", json=self._login))["token"]
        page = 0
        while True:
            parameters: dict[str, str | int] = {"limit": 100, "page": page, **filters}
            listed = await call_json(
                self._client,
                "GET",
                "/v1/payment/",
                params=parameters,
                headers={"Authorization": f"Bearer {token}"},
            )
            for coin in listed["data"]:
                yield coin
            page += 1
            if page >= int(listed["pagesCount"]):
                return


def _snapshot(reference: str, currency: str, coins: Sequence[_Coin]) -> Snapshot:
    """One view over every coin payment of an invoice: what is there counts, what is still on its way waits.

    "Finished" says that the coins were processed, and not that they were enough: a repeated deposit and one in another
    coin are finished whatever they are worth (NOWPayments, "Repeated deposits" and "Wrong-asset deposits").
    """
    finished = [coin for coin in coins if coin.payment_status == "finished"]
    partial = [coin for coin in coins if coin.payment_status == "partially_paid"]
    refunded = [coin for coin in coins if coin.payment_status == "refunded"]
    price = max((coin.price_amount * 100 for coin in coins), default=Decimal(0))
    refunds = tuple(
        ProviderRefund(str(coin.payment_id), _rounded(_worth(coin), price), "succeeded") for coin in refunded
    )
    paid_cents = _rounded(sum((_worth(coin) for coin in (*finished, *partial, *refunded)), Decimal(0)), price)
    enough = paid_cents >= price
    if finished or (refunded and enough):
        mismatch: Mismatch | None = None if enough else "underpaid"
        return Snapshot(reference, "paid", paid_cents, currency.lower(), mismatch=mismatch, refunds=refunds)
    if partial:
        return Snapshot(reference, "expired", paid_cents, currency.lower(), mismatch="underpaid", refunds=refunds)
    if any(coin.payment_status not in ("waiting", "expired", "failed", "refunded") for coin in coins):
        return Snapshot(reference, "processing", 0, currency.lower())
    if not coins or any(coin.payment_status == "waiting" for coin in coins):
        return Snapshot(reference, "open", 0, currency.lower())
    expired = all(coin.payment_status == "expired" for coin in coins)
    return Snapshot(reference, "expired" if expired else "failed", paid_cents, currency.lower(), refunds=refunds)


def _worth(coin: _Coin) -> Decimal:
    """What arrived, in cents of the invoice's currency: its price in proportion to the coins that were asked for."""
    if coin.pay_amount is None or coin.actually_paid is None:
        raise ValueError(f"coin payment {coin.payment_id} is {coin.payment_status} without its amounts")
    price = coin.price_amount * 100
    return price * coin.actually_paid / coin.pay_amount if coin.pay_amount else price


def _rounded(cents: Decimal, price_cents: Decimal) -> int:
    """Whole cents; and exactly the price within one percent of it, which is what rates and fees make of it."""
    if UNDERPAID_BELOW * price_cents <= cents < OVERPAID_FROM * price_cents:
        cents = price_cents
    return int(cents.quantize(Decimal(1), ROUND_HALF_UP))


class _Raw(str):
    """A number exactly as it was written: printing it from a float could change it, and with it the signature."""

    __slots__ = ()


def _canonical(value: Any) -> str:
    """JSON with keys sorted at every depth, no spaces, numbers as they came: what the provider signs."""
    if isinstance(value, _Raw):
        return str(value)
    if isinstance(value, dict):
        members = (f"{json.dumps(key, ensure_ascii=False)}:{_canonical(value[key])}" for key in sorted(value))
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_canonical(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
