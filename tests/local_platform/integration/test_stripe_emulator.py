"""The unmodified stripe-python against the emulator: objects, idempotency keys, webhooks."""

import json
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_platform.payment_providers.stripe_emulator import StripeEmulator
from tests.support.serving import listening_socket, serving
from tests.support.waiting import eventually

SHAPES = json.loads((Path(__file__).parents[1] / "stripe_shapes.json").read_text())
SECRET = "whsec_test"


class StripeHarness:
    """The SDK's client, the emulator, and the received webhooks."""

    def __init__(self, emulator: StripeEmulator, url: str) -> None:
        self.emulator = emulator
        self.url = url
        self.received: list[tuple[bytes, str]] = []
        self.refuse_next = 0
        self.transport = stripe.HTTPXClient()
        self.client = self.client_with("rk_test")

    def client_with(self, api_key: str) -> stripe.StripeClient:
        return stripe.StripeClient(
            api_key, base_addresses={"api": self.url}, http_client=self.transport, max_network_retries=0
        )

    async def receive(self, request: Request) -> Response:
        if self.refuse_next:
            self.refuse_next -= 1
            return Response(status_code=500)
        self.received.append((await request.body(), request.headers["stripe-signature"]))
        return Response(status_code=200)

    def types(self) -> list[str]:
        return [json.loads(body)["type"] for body, _ in self.received]

    async def open(self, key: str = "key-1", **changes: Any) -> Any:
        item = {"quantity": 1, "price_data": {"currency": "usd", "unit_amount": 1000, "product_data": {"name": "x"}}}
        parameters: dict[str, Any] = {
            "mode": "payment",
            "client_reference_id": "our-id",
            "payment_intent_data": {"metadata": {"payment_id": "our-id"}},
            "line_items": [item],
            "success_url": "http://front/ok",
            "cancel_url": "http://front/no",
        }
        return await self.client.v1.checkout.sessions.create_async(
            cast("Any", parameters | changes), {"idempotency_key": key}
        )


@pytest.fixture
async def account() -> AsyncIterator[StripeHarness]:
    listener, url = listening_socket()
    hook_listener, hook_url = listening_socket()
    emulator = StripeEmulator("rk_test", url)
    account = StripeHarness(emulator, url)
    hook = Starlette(routes=[Route("/hook", account.receive, methods=["POST"])])
    emulator.account.add_endpoint(f"{hook_url}/hook", ["*"], SECRET)
    async with serving(hook, hook_listener), serving(emulator.app(), listener):
        yield account
        await account.transport.close_async()  # type: ignore[no-untyped-call]


def shape_of(value: Any) -> str:
    for kind, name in ((dict, "object"), (list, "array"), (bool, "boolean"), (int, "integer")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "string"


def assert_shape(found: dict[str, Any], resource: str) -> None:
    expected = SHAPES[resource]
    missing = set(expected) - set(found)
    assert not missing or missing <= {"metadata"}, f"{resource} lacks {missing}"
    assert not set(found) - set(expected) - {"secret"}, f"{resource} has unknown {set(found) - set(expected)}"
    for key, value in found.items():
        kinds = {shape_of(value), expected.get(key, shape_of(value))} - {"null"}
        assert len(kinds) <= 1, f"{resource}.{key} is {shape_of(value)}, published as {expected[key]}"


def _has_received(account: StripeHarness, event_type: str) -> bool:
    return event_type in account.types()


async def test_every_object_has_the_keys_and_types_that_stripe_publishes(account: StripeHarness) -> None:
    session = await account.open()
    paid = account.emulator.account.pay(session.id)
    intent = paid["payment_intent"]
    account.emulator.account.refund(intent, 100, None, {})
    account.emulator.account.dispute(intent, None, "needs_response")
    account.emulator.account.warn_of_fraud(intent)
    async with httpx.AsyncClient() as http:
        objects = (await http.get(f"{account.url}/admin/objects")).json()
    for kind, resource in (
        ("sessions", "checkout.session"),
        ("intents", "payment_intent"),
        ("charges", "charge"),
        ("refunds", "refund"),
        ("disputes", "dispute"),
        ("warnings", "radar.early_fraud_warning"),
        ("events", "event"),
    ):
        assert objects[kind]
        for found in objects[kind]:
            assert_shape(found, resource)


async def test_a_repeated_idempotency_key_answers_with_the_first_session(account: StripeHarness) -> None:
    expires_at = int(time.time()) + 3600
    first = await account.open("same", expires_at=expires_at)
    again = await account.open("same", expires_at=expires_at)
    assert first.id == again.id
    with pytest.raises(stripe.IdempotencyError):
        await account.open("same", expires_at=expires_at + 1)


async def test_a_recorded_500_is_replayed_under_its_key(account: StripeHarness) -> None:
    async with httpx.AsyncClient() as http:
        await http.post(f"{account.url}/admin/failures", json={"count": 1, "path": "/v1/checkout"})
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            await account.open("unlucky")
    assert (await account.open("another")).status == "open"


async def test_the_sdk_accepts_the_signature_of_an_event(account: StripeHarness) -> None:
    session = await account.open()
    account.emulator.account.pay(session.id)
    await eventually(lambda: account.received, what="the webhook")
    body, signature = account.received[0]
    event = stripe.Webhook.construct_event(body, signature, SECRET)
    assert event.type == "checkout.session.completed"
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(body, signature, "whsec_other")


async def test_a_refused_webhook_is_listed_as_undelivered_and_tried_again(account: StripeHarness) -> None:
    account.refuse_next = 1
    session = await account.open()
    account.emulator.account.pay(session.id)
    undelivered = await account.client.v1.events.list_async({"delivery_success": False})
    assert [event.type for event in undelivered.data] == ["checkout.session.completed"]
    await eventually(lambda: account.received, what="the second try")
    assert (await account.client.v1.events.list_async({"delivery_success": False})).data == []


async def test_a_delayed_payment_completes_unpaid_and_is_decided_later(account: StripeHarness) -> None:
    for key, succeeded, last in (
        ("a", True, "checkout.session.async_payment_succeeded"),
        ("b", False, "checkout.session.async_payment_failed"),
    ):
        session = await account.open(key)
        assert account.emulator.account.pay(session.id, "delayed")["payment_status"] == "unpaid"
        done = account.emulator.account.finish_delayed(session.id, succeeded)
        assert done["payment_status"] == ("paid" if succeeded else "unpaid")
        await eventually(partial(_has_received, account, last), what=last)


async def test_webhooks_can_be_dropped_doubled_reordered_and_corrupted(account: StripeHarness) -> None:
    async with httpx.AsyncClient() as http:
        switch = f"{account.url}/admin/misbehaviour"
        await http.put(switch, json={"drop": 1})
        session = await account.open("dropped")
        account.emulator.account.pay(session.id)
        await http.put(switch, json={"double": 1})
        session = await account.open("doubled")
        paid = account.emulator.account.pay(session.id)
        await eventually(lambda: len(account.received) == 2, what="two deliveries of one event")
        account.received.clear()
        await http.put(switch, json={"reorder_window_seconds": 0.2})
        account.emulator.account.dispute(paid["payment_intent"], None, "needs_response")
        await eventually(lambda: len(account.received) == 2, what="both events")
        assert account.types() == ["charge.dispute.funds_withdrawn", "charge.dispute.created"]
        account.received.clear()
        await http.put(switch, json={"corrupt": 1})
        account.emulator.account.warn_of_fraud(paid["payment_intent"])
        await eventually(lambda: account.received, what="the corrupted event")
    body, signature = account.received[0]
    with pytest.raises((stripe.SignatureVerificationError, UnicodeDecodeError)):
        stripe.Webhook.construct_event(body, signature, SECRET)


async def test_more_than_was_paid_cannot_be_refunded(account: StripeHarness) -> None:
    session = await account.open()
    intent = account.emulator.account.pay(session.id)["payment_intent"]
    await account.client.v1.refunds.create_async({"payment_intent": intent, "amount": 600})
    with pytest.raises(stripe.InvalidRequestError):
        await account.client.v1.refunds.create_async({"payment_intent": intent, "amount": 500})


async def test_lists_page_through_everything_newest_first(account: StripeHarness) -> None:
    opened = [(await account.open(f"key-{n}")).id for n in range(7)]
    page = await account.client.v1.checkout.sessions.list_async({"limit": 3})
    assert [session.id async for session in page.auto_paging_iter()] == opened[::-1]


async def test_a_wrong_key_is_refused_and_every_request_is_recorded(account: StripeHarness) -> None:
    with pytest.raises(stripe.AuthenticationError):
        await account.client_with("sk_wrong").v1.refunds.list_async()
    async with httpx.AsyncClient() as http:
        requests = (await http.get(f"{account.url}/admin/requests")).json()
    assert requests[-1]["path"] == "/v1/refunds"
