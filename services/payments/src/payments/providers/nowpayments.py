"""NOWPayments, hosted: an invoice for each payment, under which the buyer may make several payments in coins."""

import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, ClassVar, Final
from uuid import UUID

import msgspec

from contracts.payments import Provider
from payments.domain.records import PaymentRecord
from payments.domain.snapshots import Checkout, CheckoutState, ProviderEvent, ProviderRefund, Snapshot
from payments.errors import InvalidWebhookSignature, ProviderRefused
from payments.providers.http_calls import call_json, provider_client
from payments.providers.reading import Text, skipping_unreadable, text, uuid_or_none
from payments.settings import Settings, plain_secrets, required
from service_runtime.database_watch import DatabaseClock

UNDERPAID_BELOW: Final = Decimal("0.99")
OVERPAID_FROM: Final = Decimal("1.01")
"""Coins are divisible and fees vary: within one percent, it is the price."""

_SIGNATURE: Final = re.compile("[0-9a-f]{128}")

MAX_LATER_DEPOSITS: Final = 20
"""Deposits to one address that are looked up. Anybody can make more of them, and each costs a request."""

_ENDED: Final = ("waiting", "finished", "partially_paid", "refunded", "expired", "failed")
"""The statuses in which nothing is on its way: every other one says that coins were seen."""


class _Coin(msgspec.Struct):
    """One payment in coins under an invoice. Amounts are null as long as they are not known.

    A deposit to the address of an earlier one names that one as its parent, and neither our order nor the invoice.
    """

    payment_id: int | Text
    payment_status: str
    price_amount: Decimal
    price_currency: Text
    pay_amount: Decimal | None = None
    actually_paid: Decimal | None = None
    pay_currency: str | None = None
    invoice_id: int | Text | None = None
    order_id: Any = None
    parent_payment_id: int | str | None = None
    payment_extra_ids: list[int | str] | str | None = None


class _Notification(msgspec.Struct):
    """What finds the payment of a coin payment's notification."""

    payment_id: int | Text
    payment_status: Text
    order_id: Any = None


class _Invoice(msgspec.Struct):
    """An invoice that the buyer can pay."""

    id: int | Text
    invoice_url: Text


class NowPayments:
    """One NOWPayments account. Listing needs its login besides the API key, by the provider's design."""

    name: ClassVar[Provider] = "nowpayments"
    max_webhook_bytes: ClassVar[int] = 16 * 1024
    """A notification has about one kilobyte, and must be parsed to be proven."""
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
        self._client = provider_client(base_url, {"x-api-key": api_key})
        self._ipn_secrets = ipn_secrets
        self._login = {"email": email, "password": password}
        self._ipn_callback_url = ipn_callback_url
        self._success_url = success_url

    @classmethod
    def from_settings(cls, settings: Settings, _clock: DatabaseClock) -> "NowPayments":
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
                "success_url": payment.return_url or self._success_url,
            },
        )
        opened = msgspec.convert(invoice, _Invoice)
        return Checkout(reference=str(opened.id), url=opened.invoice_url)

    async def look_up(self, payment: PaymentRecord) -> Snapshot:
        """All coin payments under the invoice, and the later deposits to their addresses, taken together."""
        if payment.provider_reference is None:
            raise ProviderRefused("no invoice was created yet")
        listed = [coin async for coin in self._list({"invoiceId": payment.provider_reference})]
        order_id = str(payment.payment_id)
        coins = msgspec.convert([coin for coin in listed if coin.get("order_id") == order_id], list[_Coin])
        coins += await self._later_deposits(coins)
        return _snapshot(payment.provider_reference, payment.currency, coins)

    async def _later_deposits(self, coins: Sequence[_Coin]) -> list[_Coin]:
        """The deposits that the coin payments name as theirs: no list of the invoice has them."""
        known = {str(coin.payment_id) for coin in coins}
        named = sorted({identity for coin in coins for identity in _extra_ids(coin)} - known)
        found = [await self._coin(identity) for identity in named[:MAX_LATER_DEPOSITS]]
        return [coin for coin in found if str(coin.parent_payment_id) in known]

    async def _coin(self, payment_id: str) -> _Coin:
        return msgspec.convert(await call_json(self._client, "GET", f"/v1/payment/{payment_id}"), _Coin)

    async def refund(self, payment: PaymentRecord, refund_id: UUID, amount_cents: int) -> str:
        """Crypto goes back to an address that only the buyer can give: an operator does it and records it here."""
        raise ProviderRefused("crypto refunds are paid out by an operator and then recorded")

    def prove_webhook(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check ``x-nowpayments-sig``, an HMAC-SHA512 over the body with its keys sorted."""
        given = headers.get("x-nowpayments-sig", "")
        if not _SIGNATURE.fullmatch(given):
            # Before anything is parsed: the proof itself has to sort the body's keys.
            raise InvalidWebhookSignature("x-nowpayments-sig is missing, or is no signature")
        try:
            canonical = _canonical(body)
        except (ValueError, RecursionError) as error:
            raise InvalidWebhookSignature("the body is not JSON") from error
        expected = [hmac.new(secret.encode(), canonical, hashlib.sha512).hexdigest() for secret in self._ipn_secrets]
        if not any(hmac.compare_digest(given.encode(), one.encode()) for one in expected):
            raise InvalidWebhookSignature("x-nowpayments-sig is missing or was not made with an active secret")

    def read_webhook(self, body: bytes) -> ProviderEvent | None:
        """The provider sends no event id: the digest of the body stands for it, so that a repetition is known as one.

        Notifications about payouts and recurring payments have an ``id`` and no ``payment_id``.
        """
        found = msgspec.json.decode(body)
        if isinstance(found, dict) and "payment_id" not in found and "id" in found:
            return None
        notification = msgspec.convert(found, _Notification)
        return ProviderEvent(
            event_id=hashlib.sha256(_canonical(body)).hexdigest(),
            event_type=f"payment.{notification.payment_status}",
            payment_id=uuid_or_none(notification.order_id),
            reference=str(notification.payment_id),
            body=body,
        )

    async def find_payment(self, event: ProviderEvent) -> UUID | None:
        """The coin payment carries our payment's id as its order id; a later deposit names one that does."""
        if event.reference is None or not event.reference.isalnum():
            return None
        coin = await self._coin(event.reference)
        if coin.order_id is None and coin.parent_payment_id is not None:
            coin = await self._coin(text(str(coin.parent_payment_id)))
        return uuid_or_none(coin.order_id)

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
        listed_coins = [coin async for coin in self._list({"dateFrom": since.date().isoformat()})]
        order_of = {str(coin["payment_id"]): coin.get("order_id") for coin in listed_coins}
        for listed in listed_coins:
            # A deposit without an order or a listed parent belongs to no payment, and not to others of its kind either.
            parent = order_of.get(str(listed.get("parent_payment_id")))
            order = str(listed.get("order_id") or parent or f"coin {listed['payment_id']}")
            by_order.setdefault(order, []).append(listed)
        for order_id, of_order in by_order.items():
            snapshot = None
            with skipping_unreadable(self.name, order_id):
                coins = msgspec.convert(of_order, list[_Coin])
                # A later deposit names no invoice, and may be listed before the one that does.
                invoice = next((coin.invoice_id for coin in coins if coin.invoice_id), coins[0].payment_id)
                snapshot = _snapshot(str(invoice), coins[0].price_currency.lower(), coins)
            yield uuid_or_none(order_id), snapshot

    async def _list(self, filters: dict[str, str]) -> AsyncIterator[dict[str, Any]]:
        """Every coin payment once: one that is made while pages are read moves another to a page that comes later."""
        seen: set[str] = set()
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
                if str(coin["payment_id"]) not in seen:
                    seen.add(str(coin["payment_id"]))
                    yield coin
            page += 1
            if page >= int(listed["pagesCount"]):
                return


def _snapshot(reference: str, currency: str, coins: Sequence[_Coin]) -> Snapshot:
    """One view over every coin payment of an invoice: what is there counts, what is still on its way waits.

    Amounts decide, and not their labels. "Finished" says that the coins were processed, and not that they were enough:
    a repeated deposit and one in another coin are finished whatever they are worth (NOWPayments, "Repeated deposits"
    and "Wrong-asset deposits"). Two coin payments that are "partially paid" may be the whole price together.
    """
    asked_in = {str(coin.payment_id): coin.pay_currency for coin in coins}
    arrived = [
        (coin, _worth(coin, currency, asked_in))
        for coin in coins
        if coin.payment_status in ("finished", "partially_paid", "refunded")
    ]
    price = max((coin.price_amount * 100 for coin in coins if coin.parent_payment_id is None), default=Decimal(0))
    paid_cents = _rounded(sum((worth for _, worth in arrived), Decimal(0)), price)
    refunds = tuple(
        ProviderRefund(str(coin.payment_id), _rounded(worth, price), currency, "succeeded")
        for coin, worth in arrived
        if coin.payment_status == "refunded" and worth > 0
    )
    kept = any(coin.payment_status == "finished" for coin in coins)
    on_the_way = any(coin.payment_status not in _ENDED for coin in coins)
    if arrived and paid_cents >= price > 0:
        return Snapshot(reference, "paid", paid_cents, currency, refunds=refunds)
    if on_the_way and not kept:
        return Snapshot(reference, "processing", 0, currency)
    if kept or any(coin.payment_status == "partially_paid" for coin in coins):
        state: CheckoutState = "paid" if kept else "expired"
        return Snapshot(reference, state, paid_cents, currency, mismatch="underpaid", refunds=refunds)
    if not coins or any(coin.payment_status == "waiting" for coin in coins):
        return Snapshot(reference, "open", 0, currency)
    expired = all(coin.payment_status == "expired" for coin in coins)
    return Snapshot(reference, "expired" if expired else "failed", paid_cents, currency, refunds=refunds)


def _worth(coin: _Coin, currency: str, asked_in: Mapping[str, str | None]) -> Decimal:
    """What arrived, in cents of the invoice's currency: its price in proportion to the coins that were asked for.

    Nothing is believed of a deposit without its amounts, of one that is priced in another currency, and of one in
    another coin than the one it was to be paid in: unless the rest is enough, a person looks at it.
    """
    parent = asked_in.get(str(coin.parent_payment_id), coin.pay_currency)
    if coin.price_currency.lower() != currency or coin.pay_currency != parent:
        return Decimal(0)
    if not coin.pay_amount or coin.actually_paid is None:
        return Decimal(0)
    return coin.price_amount * 100 * coin.actually_paid / coin.pay_amount


def _extra_ids(coin: _Coin) -> set[str]:
    """The deposits that came to this one's address later. The provider shows a list, a text of them, or null."""
    extra = coin.payment_extra_ids
    given = extra.split(",") if isinstance(extra, str) else [str(one) for one in extra or ()]
    return {one.strip(' []"') for one in given if one.strip(' []"').isalnum()}


def _rounded(cents: Decimal, price_cents: Decimal) -> int:
    """Whole cents; and exactly the price within one percent of it, which is what rates and fees make of it."""
    if UNDERPAID_BELOW * price_cents <= cents < OVERPAID_FROM * price_cents:
        cents = price_cents
    return int(cents.quantize(Decimal(1), ROUND_HALF_UP))


class _Raw(str):
    """A number exactly as it was written: printing it from a float could change it, and with it the signature."""

    __slots__ = ()


def _canonical(body: bytes) -> bytes:
    """What the provider signs. Raises ValueError and RecursionError."""
    return _sorted_json(json.loads(body, parse_float=_Raw, parse_int=_Raw)).encode()


def _sorted_json(value: Any) -> str:
    """JSON with keys sorted at every depth, no spaces, numbers as they came."""
    if isinstance(value, _Raw):
        return str(value)
    if isinstance(value, dict):
        members = (f"{json.dumps(key, ensure_ascii=False)}:{_sorted_json(value[key])}" for key in sorted(value))
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_sorted_json(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
