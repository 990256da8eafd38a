"""Stripe: one Checkout Session for each payment, through stripe-python's asynchronous client.

Money is believed only when the re-fetched session says ``payment_status=paid``. Refunds and disputes are read from
their own lists, by PaymentIntent, so that those made in the dashboard count like ours.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from typing import Any, ClassVar, Final, TypeVar
from uuid import UUID

import msgspec
import stripe

from contracts.payments import Provider
from payments.domain.records import PaymentRecord
from payments.domain.snapshots import (
    Checkout,
    CheckoutState,
    DisputeState,
    ProviderDispute,
    ProviderEvent,
    ProviderRefund,
    RefundState,
    Snapshot,
)
from payments.errors import (
    CredentialsRefused,
    InvalidWebhookSignature,
    ProviderRefused,
    ProviderUnavailable,
)
from payments.providers.reading import Text, skipping_unreadable, text, text_or_none, uuid_or_none
from payments.settings import Settings, plain_secrets, required
from service_runtime.database_watch import DatabaseClock

SIGNATURE_TOLERANCE_SECONDS: Final = 300
"""Stripe's own default: an older signature may be a replay."""

SHORTEST_SESSION_SECONDS: Final = 30 * 60
"""Stripe refuses a Checkout Session that expires sooner."""

EVENT_TYPES: Final[tuple[str, ...]] = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "charge.dispute.closed",
    "radar.early_fraud_warning.created",
)
"""The events to subscribe the webhook endpoint to, and the ones that are asked for when deliveries were missed."""

_REFUND_STATES: Final[dict[str, RefundState]] = {
    "pending": "pending",
    "requires_action": "pending",
    "succeeded": "succeeded",
    "failed": "failed",
    "canceled": "failed",
}

T = TypeVar("T")
Taken = TypeVar("Taken", ProviderRefund, ProviderDispute)


class _EventData(msgspec.Struct):
    """What happened to which object."""

    object: dict[str, Any]


class _Event(msgspec.Struct):
    """The part of an event that finds its payment."""

    id: Text
    type: Text
    data: _EventData


class StripeCheckout:
    """The Stripe account behind one restricted key. ``webhook_secrets`` are one or, while rotating, two."""

    name: ClassVar[Provider] = "stripe"
    max_webhook_bytes: ClassVar[int] = 256 * 1024
    """The largest event has a few tens of kilobytes."""
    refunds_by_api: ClassVar[bool] = True

    def __init__(
        self,
        clock: DatabaseClock,
        api_key: str,
        webhook_secrets: Sequence[str],
        success_url: str,
        cancel_url: str,
        api_base: str | None = None,
        timeout_seconds: float = 20.0,
    ) -> None:
        self._transport = stripe.HTTPXClient(timeout=timeout_seconds)
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": api_base} if api_base else {},
            http_client=self._transport,
            max_network_retries=1,
        )
        self._clock = clock
        self._webhook_secrets = tuple(webhook_secrets)
        self._success_url = success_url
        self._cancel_url = cancel_url

    @classmethod
    def from_settings(cls, settings: Settings, clock: DatabaseClock) -> "StripeCheckout":
        """The adapter, connected to nothing yet."""
        return cls(
            clock=clock,
            api_key=required(settings.stripe_api_key).get_secret_value(),
            webhook_secrets=plain_secrets(settings.stripe_webhook_secrets),
            success_url=settings.checkout_success_url,
            cancel_url=settings.checkout_cancel_url,
            api_base=settings.stripe_api_base,
        )

    async def open_checkout(self, payment: PaymentRecord) -> Checkout:
        """Create the session under the payment's id as idempotency key.

        A key replays even a recorded 500, takes no other expiry, and is forgotten after a day: after a failed try the
        session is looked for by our reference first, and only if none exists is another key used.
        """
        if payment.poll_count == 1:
            with contextlib.suppress(ProviderUnavailable):
                return await self._create_session(payment, str(payment.payment_id))
        found = await self._find_session(payment)
        return found or await self._create_session(payment, f"{payment.payment_id}-{payment.poll_count}")

    async def _create_session(self, payment: PaymentRecord, idempotency_key: str) -> Checkout:
        expires_at = max(int(payment.expires_at.timestamp()), int(self._clock.now()) + SHORTEST_SESSION_SECONDS + 30)
        metadata = {"payment_id": str(payment.payment_id), "user_id": str(payment.user_id)}
        session = await _call(
            self._client.v1.checkout.sessions.create_async(
                {
                    "mode": "payment",
                    "client_reference_id": str(payment.payment_id),
                    "metadata": metadata,
                    "payment_intent_data": {"metadata": metadata},
                    "line_items": [
                        {
                            "quantity": 1,
                            "price_data": {
                                "currency": payment.currency,
                                "unit_amount": payment.price_cents,
                                "product_data": {"name": payment.title},
                            },
                        }
                    ],
                    "success_url": payment.return_url or self._success_url,
                    "cancel_url": payment.return_url or self._cancel_url,
                    "expires_at": expires_at,
                },
                {"idempotency_key": idempotency_key},
            )
        )
        if session.url is None:
            raise ProviderRefused("the new Checkout Session has no page")
        return Checkout(reference=text(session.id), url=text(session.url))

    async def _find_session(self, payment: PaymentRecord) -> Checkout | None:
        created = {"gte": int(payment.created_at.timestamp()) - 60}
        page = await _call(self._client.v1.checkout.sessions.list_async({"created": created, "limit": 100}))  # type: ignore[arg-type]
        async for session in _all_pages(page):
            if session.client_reference_id == str(payment.payment_id) and session.url:
                return Checkout(reference=session.id, url=session.url)
        return None

    async def look_up(self, payment: PaymentRecord) -> Snapshot:
        """The session with its PaymentIntent, and every refund and dispute of it."""
        if payment.provider_reference is None:
            raise ProviderRefused("no Checkout Session was opened yet")
        session = await _call(
            self._client.v1.checkout.sessions.retrieve_async(
                payment.provider_reference, {"expand": ["payment_intent", "payment_intent.latest_charge"]}
            )
        )
        intent = session.payment_intent
        intent_id = intent if isinstance(intent, str) or intent is None else intent.id
        refunds: list[ProviderRefund] = []
        disputes: list[ProviderDispute] = []
        if session.payment_status == "paid" and intent_id is not None:
            refunds = [refund async for refund in self._refunds_of(intent_id)]
            disputes = [dispute async for dispute in self._disputes_of(intent_id)]
        return _in_the_price_currency(_snapshot(session, refunds, disputes), intent)

    async def _refunds_of(self, intent_id: str) -> AsyncIterator[ProviderRefund]:
        page = await _call(self._client.v1.refunds.list_async({"payment_intent": intent_id, "limit": 100}))
        async for refund in _all_pages(page):
            yield _refund(refund)

    async def _disputes_of(self, intent_id: str) -> AsyncIterator[ProviderDispute]:
        page = await _call(self._client.v1.disputes.list_async({"payment_intent": intent_id, "limit": 100}))
        async for dispute in _all_pages(page):
            yield _dispute(dispute)

    async def refund(self, payment: PaymentRecord, refund_id: UUID, amount_cents: int) -> str:
        """Refund part or all of the PaymentIntent; the refund's own id is the idempotency key.

        Stripe forgets a key after a day, and a lost answer may be older: a refund that carries our id is not repeated.
        """
        if payment.charge_reference is None:
            raise ProviderRefused("the payment has no PaymentIntent to refund")
        async for made in self._refunds_of(payment.charge_reference):
            if made.refund_id == refund_id:
                return made.reference
        refund = await _call(
            self._client.v1.refunds.create_async(
                {
                    "payment_intent": payment.charge_reference,
                    "amount": amount_cents,
                    "metadata": {"payment_id": str(payment.payment_id), "refund_id": str(refund_id)},
                },
                {"idempotency_key": str(refund_id)},
            )
        )
        return refund.id

    def prove_webhook(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check ``Stripe-Signature`` against each active secret."""
        signature = headers.get("stripe-signature", "")
        if not signature.isascii():
            # Stripe's library would compare text that cannot be compared.
            raise InvalidWebhookSignature("the signature is not ASCII")
        # Stripe's library compares with this host's clock, so the difference to the right one is allowed for. For the
        # library, 0 is no limit at all.
        tolerance = SIGNATURE_TOLERANCE_SECONDS - round(self._clock.offset_seconds) or 1
        for secret in self._webhook_secrets:
            # It signs text: a body that is not UTF-8 is a ValueError.
            with contextlib.suppress(stripe.SignatureVerificationError, ValueError):
                stripe.WebhookSignature.verify_header(body, signature, secret, tolerance)
                return
        raise InvalidWebhookSignature("no active secret made this signature in the last 300 seconds")

    def read_webhook(self, body: bytes) -> ProviderEvent | None:
        """Take what finds the payment. Every event may be about one: an account sells nothing else."""
        return _event(msgspec.json.decode(body, type=_Event), body)

    async def find_payment(self, event: ProviderEvent) -> UUID | None:
        """Go from a refund, dispute or warning to its PaymentIntent, whose metadata carries our payment's id."""
        reference = event.reference
        if reference is None:
            return None
        if reference.startswith(("ch_", "py_")):
            charge = await _call(self._client.v1.charges.retrieve_async(reference))
            intent = charge.payment_intent
            reference = intent if isinstance(intent, str) or intent is None else intent.id
        if reference is None or not reference.startswith("pi_"):
            return None
        intent_found = await _call(self._client.v1.payment_intents.retrieve_async(reference))
        return uuid_or_none(_metadata(intent_found).get("payment_id"))

    async def missed_events(self, since: datetime) -> AsyncIterator[ProviderEvent]:
        """Events of the types that we take (kept by Stripe for 30 days).

        Not only the undelivered ones: with the endpoint disabled or deleted, none of its events counts as such.
        """
        page = await _call(
            self._client.v1.events.list_async(
                {
                    "types": list(EVENT_TYPES),
                    "created": {"gte": int(since.timestamp())},
                    "limit": 100,
                }
            )
        )
        async for listed in _all_pages(page):
            event = None
            with skipping_unreadable(self.name, listed.id):
                found = listed.to_dict()
                event = _event(msgspec.convert(found, _Event), json.dumps(found, default=str).encode())
            if event is not None:
                yield event

    async def close(self) -> None:
        """Let the connections go."""
        await self._transport.close_async()  # type: ignore[no-untyped-call]

    async def recent_payments(self, since: datetime) -> AsyncIterator[tuple[UUID | None, Snapshot | None]]:
        """Every session since then, with refunds and disputes joined by PaymentIntent: three listings in all.

        Then the older sessions whose money moved since then, each with everything that ever happened to it.
        """
        window = {"created": {"gte": int(since.timestamp())}, "limit": 100}
        moved: dict[str | None, tuple[list[ProviderRefund], list[ProviderDispute]]] = {}
        found = await _call(self._client.v1.refunds.list_async(window))  # type: ignore[arg-type]
        async for refund in _all_pages(found):
            with skipping_unreadable(self.name, refund.id):
                moved.setdefault(refund.payment_intent, ([], []))[0].append(_refund(refund))
        disputed = await _call(self._client.v1.disputes.list_async(window))  # type: ignore[arg-type]
        async for dispute in _all_pages(disputed):
            with skipping_unreadable(self.name, dispute.id):
                moved.setdefault(dispute.payment_intent, ([], []))[1].append(_dispute(dispute))
        # Money that moved without a PaymentIntent is not of a Checkout Session.
        moved.pop(None, None)
        sessions = await _call(self._client.v1.checkout.sessions.list_async(window))  # type: ignore[arg-type]
        async for session in _all_pages(sessions):
            refunds, disputes = moved.pop(session.payment_intent, ([], []))
            snapshot = None
            with skipping_unreadable(self.name, session.id):
                snapshot = _snapshot(session, refunds, disputes)
            yield uuid_or_none(session.client_reference_id), snapshot
        for intent_id in filter(None, moved):
            older = await _call(self._client.v1.checkout.sessions.list_async({"payment_intent": intent_id}))
            async for session in _all_pages(older):
                snapshot = None
                with skipping_unreadable(self.name, session.id):
                    refunds = [refund async for refund in self._refunds_of(intent_id)]
                    disputes = [dispute async for dispute in self._disputes_of(intent_id)]
                    snapshot = _snapshot(session, refunds, disputes)
                yield uuid_or_none(session.client_reference_id), snapshot


async def _call(call: Awaitable[T]) -> T:
    """Await a call of the SDK, and say which failures repeating may help."""
    try:
        return await call
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise CredentialsRefused(f"{type(error).__name__} {error.http_status}: {error.user_message}") from error
    except (stripe.APIConnectionError, stripe.IdempotencyError, stripe.RateLimitError) as error:
        raise ProviderUnavailable(type(error).__name__) from error
    except stripe.StripeError as error:
        if error.http_status is None or error.http_status >= 500 or error.http_status == 409:
            raise ProviderUnavailable(f"{type(error).__name__} {error.http_status}") from error
        raise ProviderRefused(f"{type(error).__name__} {error.http_status}: {error.user_message}") from error


async def _all_pages(page: Any) -> AsyncIterator[Any]:
    """Every object of a paged list; a page that cannot be read is the provider being unavailable."""
    pages = page.auto_paging_iter()
    while True:
        try:
            item = await _call(anext(pages))
        except StopAsyncIteration:
            return
        yield item


def _snapshot(session: Any, refunds: Sequence[ProviderRefund], disputes: Sequence[ProviderDispute]) -> Snapshot:
    intent = session.payment_intent
    intent_status = None if isinstance(intent, str) or intent is None else intent.status
    return Snapshot(
        reference=text(session.id),
        state=_state(session.status, session.payment_status, intent_status),
        paid_cents=session.amount_total if session.payment_status == "paid" else 0,
        currency=text(session.currency).lower(),
        charge_reference=text_or_none(intent if isinstance(intent, str) or intent is None else intent.id),
        receipt_url=_receipt_url(intent),
        refunds=tuple(refunds),
        disputes=tuple(disputes),
    )


def _receipt_url(intent: Any) -> str | None:
    """Stripe's page with the receipt of the charge that paid."""
    charge = None if isinstance(intent, str) or intent is None else intent.latest_charge
    return None if isinstance(charge, str) or charge is None else text_or_none(charge.receipt_url)


def _in_the_price_currency(snapshot: Snapshot, intent: Any) -> Snapshot:
    """The same, with refunds and disputes in the currency of the price where the buyer was charged in another one.

    Stripe may show a buyer their own currency (Adaptive Pricing). Then the PaymentIntent and what is taken back from it
    are in that one, and each is worth its share of the whole. What is in a third currency stays as it is.
    """
    if isinstance(intent, str) or intent is None or not intent.amount_received:
        return snapshot
    charged = text(intent.currency).lower()
    if charged == snapshot.currency:
        return snapshot

    def share(taken: Taken) -> Taken:
        if taken.currency != charged:
            return taken
        cents = round(Fraction(snapshot.paid_cents * taken.amount_cents, intent.amount_received))
        return replace(taken, amount_cents=cents, currency=snapshot.currency)

    return replace(
        snapshot,
        refunds=tuple(share(refund) for refund in snapshot.refunds),
        disputes=tuple(share(dispute) for dispute in snapshot.disputes),
    )


def _state(status: str | None, payment_status: str, intent_status: str | None) -> CheckoutState:
    if payment_status == "paid" or (status == "complete" and payment_status == "no_payment_required"):
        # The second is a coupon over the whole price: nothing was paid, and a person decides what that is worth.
        return "paid"
    if status == "expired":
        return "expired"
    if status == "open":
        return "open"
    # Complete but unpaid: a delayed method, until its PaymentIntent falls back to asking for another one.
    return "failed" if intent_status in ("requires_payment_method", "canceled") else "processing"


def _refund(refund: Any) -> ProviderRefund:
    state = _REFUND_STATES.get(refund.status, "pending")
    return ProviderRefund(
        text(refund.id),
        refund.amount,
        text(refund.currency).lower(),
        state,
        uuid_or_none(_metadata(refund).get("refund_id")),
    )


def _dispute(dispute: Any) -> ProviderDispute:
    state: DisputeState = "open"
    if dispute.status.startswith("warning_"):
        state = "warning"
    elif dispute.status in ("won", "prevented"):
        state = "won"
    elif dispute.status == "lost":
        state = "lost"
    return ProviderDispute(text(dispute.id), dispute.amount, text(dispute.currency).lower(), state)


def _event(event: _Event, body: bytes) -> ProviderEvent:
    subject = event.data.object
    payment_id = uuid_or_none(subject.get("client_reference_id")) or uuid_or_none(
        (subject.get("metadata") or {}).get("payment_id")
    )
    reference = subject.get("payment_intent") or subject.get("charge") or subject.get("id")
    if isinstance(reference, dict):
        # An object instead of its id: Stripe expands where the account asks for it.
        reference = reference.get("id")
    return ProviderEvent(event.id, event.type, payment_id, text_or_none(reference), body)


def _metadata(found: Any) -> dict[str, Any]:
    return found.to_dict().get("metadata") or {}
