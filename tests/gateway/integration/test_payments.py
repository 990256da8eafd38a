"""Buying a pack: begun here, driven by payments, and told in order."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
import pytest

from contracts.payments import CreatePayment, Payment, PaymentChanged, PaymentRefused
from messaging.ids import new_id
from tests.gateway.harness import Client, GatewayHarness, Replica, now
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)

STARTER = {"pack_id": "starter", "provider": "stripe"}


async def command(harness: GatewayHarness, number: int) -> CreatePayment:
    """The ``number``-th purchase that payments was told to begin."""

    async def told() -> Sequence[Any] | None:
        rows = await harness.rows(
            "SELECT payload FROM gateway.outbox_messages WHERE subject = :subject ORDER BY message_id",
            subject=CreatePayment.subject,
        )
        return rows if len(rows) >= number else None

    rows = await eventually(told, what="the command")
    return msgspec.json.decode(rows[number - 1].payload, type=CreatePayment)


def payment(replica: Replica, told: CreatePayment, version: int, status: Any, **changed: Any) -> PaymentChanged:
    pack = replica.gateway.dependencies.packs[told.pack_id]
    values: dict[str, Any] = {
        "payment_id": told.payment_id,
        "user_id": told.user_id,
        "version": version,
        "provider": told.provider,
        "status": status,
        "pack_id": pack.id,
        "price_cents": pack.price_cents,
        "currency": pack.currency,
        "credits": pack.credits,
        "bonus_credits": pack.bonus_credits,
        "checkout_url": "https://checkout.example/pay",
        "created_at": now(),
        "expires_at": now(),
    }
    return PaymentChanged(payment=Payment(**(values | changed)), reason=status, changed_at=now())


async def begin(
    harness: GatewayHarness, user: Client, key: str, number: int
) -> tuple[asyncio.Task[Any], CreatePayment]:
    asked = asyncio.create_task(user.post("/v1/payments", STARTER, key))
    return asked, await command(harness, number)


async def test_the_checkout_returns_to_frontends_that_are_known_and_nowhere_else(harness: GatewayHarness) -> None:
    origins = ["https://app.example.com"]
    gateway = await harness.gateway(cors_origins=origins, cors_localhost=True, checkout_wait_seconds=0.05)
    user = harness.user(gateway)
    pages = ("https://app.example.com/credits?tab=1#top", "http://localhost:3000/", "https://app.example.com:443")
    for number, page in enumerate(pages, 1):
        begun = await user.post("/v1/payments", {**STARTER, "return_url": page}, f"key {number}")
        assert begun.status_code == 202
        told = await command(harness, number)
        assert told.return_url is not None
        wanted = urlsplit(page)
        separator = "&" if wanted.query else ""
        query = f"{wanted.query}{separator}payment_id={begun.json()['id']}"
        assert told.return_url == wanted._replace(query=query).geturl()
    for page in (
        "https://evil.example.com/",
        "http://app.example.com/",
        "https://app.example.com.evil.com/",
        "https://app.example.com@evil.com/",
        "https://app.example.com:8443/",
        "//app.example.com/",
        "javascript:alert(1)",
        "https://[",
        "https://app.example.com/\nSet-Cookie: a",
    ):
        refused = await user.post("/v1/payments", {**STARTER, "return_url": page}, "a key that stays free")
        assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, "foreign_origin"), page
    reused = await user.post("/v1/payments", STARTER, "key 1")
    assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")


async def test_a_receipt_is_shown_once_there_is_one(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(checkout_wait_seconds=0.05)
    user = harness.user(gateway)
    asked, told = await begin(harness, user, "buy", 1)
    await asked
    receipt = "https://pay.stripe.com/receipts/payment/1"
    settled = payment(gateway, told, 3, "settled", receipt_url=receipt)
    await harness.publish("payments", payment(gateway, told, 2, "pending"), settled, about=told.payment_id)

    async def shown() -> bool:
        answer = (await user.get(f"/v1/payments/{told.payment_id}")).json()
        return bool(answer["status"] == "settled" and answer["receipt_url"] == receipt)

    await eventually(shown, what="the receipt")


async def test_a_purchase_begins_once_for_each_key_and_shows_its_checkout(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    await harness.producer("payments")
    user = harness.user(gateway)
    asked, told = await begin(harness, user, "buy", 1)
    assert (told.user_id, told.pack_id, told.provider) == (user.user_id, "starter", "stripe")
    created = payment(gateway, told, 1, "created", checkout_url=None)
    await harness.publish("payments", created, payment(gateway, told, 2, "pending"), about=told.payment_id)
    begun = await asked
    assert begun.status_code == 201, begun.text
    shown = begun.json()
    assert (shown["status"], shown["checkout_url"]) == ("pending", "https://checkout.example/pay")
    path = begun.headers["Location"]
    again = await user.post("/v1/payments", STARTER, "buy")
    assert (again.status_code, again.json()["id"], again.headers["Idempotent-Replayed"]) == (200, shown["id"], "true")
    assert again.elapsed < timedelta(seconds=5), "the news was over: the read model must be looked at"
    other = await user.post("/v1/payments", STARTER | {"provider": "btcpay"}, "buy")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    await harness.publish("payments", payment(gateway, told, 3, "settled"), about=told.payment_id)

    async def settled() -> Any:
        now_shown = (await user.get(path)).json()
        return now_shown if now_shown["status"] == "settled" else None

    assert (await eventually(settled, what="the settlement"))["checkout_url"] is None
    timeline = (await user.get(f"{path}/timeline")).json()["items"]
    assert [entry["name"] for entry in timeline] == ["payment_created", "payment_pending", "payment_settled"]
    listed = (await user.get("/v1/payments")).json()
    assert ([item["id"] for item in listed["items"]], listed["next_cursor"]) == ([shown["id"]], None)
    assert len(await harness.rows("SELECT 1 FROM gateway.payment_requests")) == 1


async def test_a_refused_or_unanswered_purchase_says_so_every_time(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(checkout_wait_seconds=3)
    await harness.producer("payments")
    user = harness.user(gateway)
    asked, told = await begin(harness, user, "refused", 1)
    refusal = PaymentRefused(
        payment_id=told.payment_id, user_id=told.user_id, code="provider_disabled", detail="not offered"
    )
    await harness.publish("payments", refusal, about=told.payment_id)
    first = await asked
    status = "SELECT 1 FROM gateway.payments WHERE payment_id = :id AND status = 'refused'"
    await eventually(lambda: harness.rows(status, id=told.payment_id), what="the refusal in the read model")
    again = await user.post("/v1/payments", STARTER, "refused")
    for answer in (first, again):
        assert (answer.status_code, answer.json()["code"], answer.json()["reason"]) == (
            409,
            "payment_refused",
            "provider_disabled",
        )
    await gateway.stack.aclose()
    hasty = await harness.gateway(checkout_wait_seconds=0.05)
    user = harness.user(hasty, user.user_id)
    late = await user.post("/v1/payments", STARTER, "late")
    assert (late.status_code, late.json()["status"], UUID(late.json()["id"])) == (
        202,
        "created",
        (await command(harness, 2)).payment_id,
    )
    unknown = await user.post("/v1/payments", STARTER | {"pack_id": "infinite"}, "other")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "pack_not_found")
    priced = await user.post("/v1/payments", STARTER | {"price_cents": 1}, "cheap")
    assert (priced.status_code, priced.json()["errors"][0]["field"]) == (422, "price_cents")
    stranger = harness.user(hasty, new_id())
    assert (await stranger.get(f"/v1/payments/{late.json()['id']}")).status_code == 404
