"""Orders for several variants: placed, funded and refused as one; each delivered, charged and ended alone."""

from typing import Any
from uuid import UUID

import pytest

from catalogue.model import LARGEST_SEED
from contracts.generation import CancelGeneration, GenerationFailed
from contracts.storage import DeleteFiles
from gateway.withdrawals import withdraw_overdue
from messaging.ids import new_id
from tests.gateway.harness import PICTURE, Client, GatewayHarness, asset_of, completion_of, now
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)

SEEDED: dict[str, Any] = {**PICTURE, "parameters": {**PICTURE["parameters"], "seed": LARGEST_SEED - 1}}


async def told(harness: GatewayHarness, subject: str) -> list[str]:
    """The generations that the gateway's messages on this subject are about, in order."""
    rows = await harness.rows(
        "SELECT correlation_id FROM gateway.outbox_messages WHERE subject = :subject ORDER BY message_id",
        subject=subject,
    )
    return [str(row.correlation_id) for row in rows]


async def show(user: Client, generation_id: str) -> Any:
    answer = await user.get(f"/v1/generations/{generation_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def remove(user: Client, generation_id: str, variants: str) -> tuple[int, Any]:
    path = f"/v1/generations/{generation_id}?variants={variants}"
    answer = await user.http.delete(path, headers=user.headers(None))
    return answer.status_code, answer.json().get("status_of_generation") if answer.content else None


async def test_variants_are_one_order_and_each_is_delivered_and_charged_alone(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    await harness.billing()
    user = harness.user(gateway)
    quote = (await user.post("/v1/quotes", SEEDED | {"count": 3})).json()
    price = quote["price_credits"]
    assert (quote["count"], quote["total_price_credits"]) == (3, 3 * price)
    await harness.grant(user.user_id, 3 * price)

    placed = await user.order(SEEDED | {"count": 3, "max_price_credits": 3 * price}, "key")
    assert placed.status_code == 201, placed.text
    first = placed.json()
    ids = [variant["id"] for variant in first["variants"]]
    assert (first["id"], first["variant_of"], first["variant_number"]) == (ids[0], ids[0], 1)
    assert (first["count"], first["price_credits"], first["total_price_credits"]) == (3, price, 3 * price)
    assert len(set(ids)) == 3
    reserved = await harness.rows("SELECT generation_id FROM billing.reservations ORDER BY 1")
    assert [str(row.generation_id) for row in reserved] == ids
    shown = [await show(user, generation_id) for generation_id in ids]
    assert [one["parameters"]["seed"] for one in shown] == [LARGEST_SEED - 1, LARGEST_SEED, 0]
    assert [(one["variant_of"], one["variant_number"], one["count"]) for one in shown] == [
        (ids[0], number, 3) for number in (1, 2, 3)
    ]

    again = await user.order(SEEDED | {"count": 3, "max_price_credits": 3 * price}, "key")
    assert (again.status_code, [variant["id"] for variant in again.json()["variants"]]) == (200, ids)
    for changed in ({}, {"count": 2}):
        other = await user.order(SEEDED | {"max_price_credits": 3 * price} | changed, "key")
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")

    await _end(harness, user, ids, price)
    ended = await eventually(lambda: _ended(user, ids[0]), what="the ends of two variants")
    assert [variant["captured_credits"] for variant in ended["variants"]] == [price, None, None]
    assert ended["total_captured_credits"] == price
    listed = (await user.get("/v1/generations", variant_of=ids[0])).json()["items"]
    assert sorted(one["id"] for one in listed) == ids
    assert [one["variants"] for one in listed] == [ended["variants"]] * 3

    assert await remove(user, ids[1], "all") == (409, "requested")
    assert (await user.post(f"/v1/generations/{ids[0]}/cancel?variants=all")).status_code == 202
    assert await told(harness, CancelGeneration.subject) == [ids[2]], "the others have ended"
    assert await remove(user, ids[1], "this") == (204, None)
    await harness.rows("UPDATE gateway.generations SET status = 'cancelled' WHERE generation_id = :id", id=ids[2])
    nothing = await user.post(f"/v1/generations/{ids[2]}/cancel?variants=all")
    assert (nothing.status_code, nothing.json()["code"]) == (409, "generation_ended")
    left = (await show(user, ids[0]))["variants"]
    assert [variant["deleted"] for variant in left] == [False, True, False]
    assert await remove(user, ids[0], "all") == (204, None)
    assert await told(harness, DeleteFiles.subject) == [ids[1], *ids]
    assert (await user.get("/v1/generations")).json()["items"] == []


async def _end(harness: GatewayHarness, user: Client, ids: list[str], price: int) -> None:
    """The first variant is delivered, and the second one fails."""
    delivered, failed = UUID(ids[0]), UUID(ids[1])
    asset = asset_of(delivered, user.user_id)
    await harness.publish("storage", asset, about=delivered)
    await harness.publish("generation", completion_of(asset, capture_credits=price), about=delivered)
    failure = GenerationFailed(
        generation_id=failed, user_id=user.user_id, version=4, code="execution_failed", detail="", failed_at=now()
    )
    await harness.publish("generation", failure, about=failed)


async def _ended(user: Client, generation_id: str) -> Any:
    shown = await show(user, generation_id)
    statuses = [variant["status"] for variant in shown["variants"]]
    return shown if statuses == ["completed", "failed", "requested"] else None


async def test_an_order_is_refused_whole_if_not_all_of_its_variants_can_be_placed(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(writes_per_minute=10, max_open_generations=3)
    await harness.billing()
    user = harness.user(gateway)
    price = (await user.post("/v1/quotes", PICTURE)).json()["price_credits"]
    await harness.grant(user.user_id, 3 * price - 1)

    dear = await user.order(PICTURE | {"count": 3, "max_price_credits": 3 * price - 1})
    assert (dear.status_code, dear.json()["price_credits"]) == (409, 3 * price)
    interpolation = {"model_id": "film-interpolation", "count": 2, "parameters": {"clip": str(new_id())}}
    for path in ("/v1/quotes", "/v1/generations"):
        alike = await user.post(path, interpolation, "alike")
        assert (alike.status_code, alike.json()["errors"][0]["field"]) == (422, "count"), alike.text
    assert await harness.rows("SELECT 1 FROM gateway.generation_requests") == []

    refused = await user.order(PICTURE | {"count": 3}, "key")
    assert (refused.status_code, refused.json()["code"]) == (402, "insufficient_credits")
    assert (refused.json()["required"], refused.json()["available"]) == (3 * price, 3 * price - 1)
    again = await user.order(PICTURE | {"count": 3}, "key")
    assert (again.status_code, again.json()["required"]) == (402, 3 * price)
    verdicts = await harness.rows("SELECT code, required_credits FROM billing.refusals")
    assert [tuple(row) for row in verdicts] == [("insufficient_credits", price)] * 3

    assert (await user.order(PICTURE | {"count": 2})).status_code == 201
    full = await user.order(PICTURE | {"count": 2})
    assert (full.status_code, full.json()["code"]) == (429, "too_many_open_generations")
    assert '"writes";r=3;' in full.headers["RateLimit"], "3 + 2 + 2 of 10"
    limited = await user.order(PICTURE | {"count": 4})
    assert (limited.status_code, limited.json()["code"]) == (429, "rate_limited")
    assert (await user.order(PICTURE)).status_code == 402


async def test_all_variants_are_cancelled_by_the_id_of_the_order_though_it_is_deleted(harness: GatewayHarness) -> None:
    user = harness.user(await harness.gateway(verdict_wait_seconds=0.05))
    first, second = (variant["id"] for variant in (await user.order(PICTURE | {"count": 2})).json()["variants"])
    await harness.rows("UPDATE gateway.generations SET status = 'failed' WHERE generation_id = :id", id=first)
    assert await remove(user, first, "this") == (204, None)
    cancelled = await user.post(f"/v1/generations/{first}/cancel?variants=all")
    assert (cancelled.status_code, cancelled.json().get("id")) == (202, second), cancelled.text
    await harness.rows("UPDATE gateway.generations SET status = 'cancelled' WHERE generation_id = :id", id=second)
    ended = await user.post(f"/v1/generations/{first}/cancel?variants=all")
    assert (ended.status_code, ended.json()["code"]) == (409, "generation_ended")


async def test_variants_that_billing_never_answered_are_withdrawn_one_by_one(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.05)
    user = harness.user(gateway)
    order = (await user.order(PICTURE | {"count": 2})).json()
    first, second = (variant["id"] for variant in order["variants"])
    # The request is lost on its way, as in a purge: billing never receives it.
    await harness.rows("DELETE FROM gateway.outbox_messages")
    await eventually(lambda: harness.purge("GATEWAY"), what="an empty stream")
    assert (await user.post(f"/v1/generations/{second}/cancel")).status_code == 202
    await harness.rows(
        "UPDATE gateway.generations SET expires_at = now() - interval '1 s', updated_at = now() - interval '2 min'"
    )
    assert await withdraw_overdue(gateway.gateway.dependencies.transactions) == 2
    await harness.billing()
    await eventually(lambda: _in_status(user, first, "refused"), 30, "the end of the first variant")
    await eventually(lambda: _in_status(user, second, "cancelled"), 30, "the end of the cancelled variant")
    assert (await show(user, first))["failure"]["code"] == "expired"


async def _in_status(user: Client, generation_id: str, status: str) -> bool:
    return bool((await show(user, generation_id))["status"] == status)
