"""What belongs to another user is answered as if it did not exist, at every route."""

from typing import Any
from uuid import uuid4

import pytest

from contracts.payments import Payment, PaymentChanged
from messaging.ids import new_id
from tests.gateway.harness import PICTURE, Client, GatewayHarness, asset_of, completion_of, now
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)


async def test_nothing_of_another_user_is_found_at_any_route(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    await harness.billing()
    owner, stranger = harness.user(gateway), harness.user(gateway)
    await harness.grant(owner.user_id, 100)
    ordered = await eventually(lambda: _funded(owner), what="credits that can be spent")
    generation_id = ordered["id"]
    asset = asset_of(generation_id, owner.user_id)
    done = completion_of(asset, capture_credits=1, version=9)
    await harness.publish("storage", asset, about=generation_id)
    await harness.publish("generation", done, about=generation_id)
    payment_id = new_id()
    payment = Payment(
        payment_id=payment_id,
        user_id=owner.user_id,
        version=2,
        provider="stripe",
        status="pending",
        pack_id="starter",
        price_cents=1000,
        currency="usd",
        credits=1000,
        bonus_credits=0,
        checkout_url="https://checkout.example/owner",
        created_at=now(),
        expires_at=now(),
    )
    await harness.publish(
        "payments", PaymentChanged(payment=payment, reason="checkout_opened", changed_at=now()), about=payment_id
    )

    async def all_there() -> bool:
        shown = (await owner.get(f"/v1/generations/{generation_id}")).json()
        return shown.get("download") is not None and (await owner.get(f"/v1/payments/{payment_id}")).status_code == 200

    await eventually(all_there, what="the owner's own generation and payment")
    known = {"generation_id": generation_id, "payment_id": payment_id, "line_number": 1}
    asked = 0
    for path, methods in gateway.gateway.app.openapi()["paths"].items():
        if not any(f"{{{name}}}" in path for name in known):
            continue
        for method, operation in methods.items():
            switches = [one["schema"]["enum"] for one in operation["parameters"] if one["name"] == "variants"]
            for variants in switches[0] if switches else (None,):
                answer = await stranger.http.request(
                    method,
                    path.format_map(known),
                    params=None if variants is None else {"variants": variants},
                    json={} if "requestBody" in operation else None,
                    headers=stranger.headers({"Idempotency-Key": str(uuid4())}),
                )
                assert answer.status_code == 404, (method, path, variants)
                assert str(owner.user_id) not in answer.text
                asked += 1
    assert asked >= 10, "every route that names something of a user"
    for listing in ("/v1/generations", "/v1/payments", "/v1/ledger", "/v1/usage"):
        assert (await owner.get(listing)).json()["items"]
        assert (await stranger.get(listing)).json()["items"] == []
    assert (await stranger.get("/v1/balance")).json()["available_credits"] == 0
    assert len((await owner.get("/v1/generations", variant_of=generation_id)).json()["items"]) == 2
    assert (await stranger.get("/v1/generations", variant_of=generation_id)).json()["items"] == []
    assert str(generation_id) not in (await stranger.get("/v1/ledger", format="csv")).text


async def _funded(user: Client) -> Any:
    answer = await user.order(PICTURE | {"count": 2})
    return answer.json() if answer.status_code == 201 else None


async def test_two_users_may_use_the_same_key(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.1)
    one, other = harness.user(gateway), harness.user(gateway)
    first, second = await one.order(PICTURE, "the-same-key"), await other.order(PICTURE, "the-same-key")
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] != second.json()["id"]


async def test_an_order_cannot_use_another_users_upload(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.1)
    owner, stranger = harness.user(gateway), harness.user(gateway)
    begun = await owner.post("/v1/uploads", {"content_type": "image/png", "size_bytes": 100})
    body = {"model_id": "wan-2.2-i2v", "parameters": {"prompt": "waves", "image": begun.json()["id"]}}
    refused = await stranger.order(body)
    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["errors"]] == ["parameters.image"]
    assert (await stranger.order({**body, "parameters": {"prompt": "waves", "image": str(uuid4())}})).status_code == 422
    assert (await owner.order(body)).status_code == 202
