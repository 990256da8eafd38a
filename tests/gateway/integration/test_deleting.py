"""Deleting a generation, and ordering one again."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from contracts.storage import DeleteFiles, FilesDeleted
from tests.gateway.harness import CLIP, PICTURE, Client, Event, GatewayHarness, asset_of, completion_of, now
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)


async def order(harness: GatewayHarness, user: Client, status: str, body: Any = PICTURE) -> str:
    """An order that is shown in this status."""
    generation_id: str = (await user.order(body)).json()["id"]
    await harness.rows(
        "UPDATE gateway.generations SET status = :s WHERE generation_id = :id", s=status, id=generation_id
    )
    return generation_id


async def delete(user: Client, generation_id: str) -> httpx.Response:
    return await user.http.delete(f"/v1/generations/{generation_id}", headers=user.headers(None))


async def commands(harness: GatewayHarness) -> Counter[str]:
    """How often storage was told to delete which generation."""
    rows = await harness.rows(
        "SELECT correlation_id FROM gateway.outbox_messages WHERE subject = :subject", subject=DeleteFiles.subject
    )
    return Counter(str(row.correlation_id) for row in rows)


async def listed(user: Client) -> set[str]:
    return {item["id"] for item in (await user.get("/v1/generations")).json()["items"]}


async def test_a_deleted_generation_is_in_no_list_and_its_address_says_so(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.01)
    user = harness.user(gateway)
    kept, gone = await order(harness, user, "completed"), await order(harness, user, "failed")
    assert (await delete(user, gone)).status_code == 204
    assert await listed(user) == {kept}
    for answer in (
        await user.get(f"/v1/generations/{gone}"),
        await user.get(f"/v1/generations/{gone}/timeline"),
        await user.post(f"/v1/generations/{gone}/cancel"),
        await user.post(f"/v1/generations/{gone}/repeat", {}, "a key"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (410, "generation_deleted")
    deleted_at = (await user.get(f"/v1/generations/{gone}")).json()["deleted_at"]
    assert (await delete(user, gone)).status_code == 204, "as often as one likes"
    assert (await user.get(f"/v1/generations/{gone}")).json()["deleted_at"] == deleted_at
    assert await commands(harness) == {gone: 2}

    await harness.publish(
        "storage", FilesDeleted(generation_id=UUID(gone), user_id=user.user_id, deleted_at=now()), about=UUID(gone)
    )

    async with asyncio.timeout(20), user.events(0) as events:
        told = [event.data["generation_id"] async for event in _until_deleted(events)]
    assert told[-1] == gone


async def _until_deleted(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    async for event in events:
        yield event
        if event.data.get("name") == "deleted":
            return


@pytest.mark.parametrize("status", ["requested", "queued", "dispatching", "running", "storing", "cancelling"])
async def test_work_that_has_not_ended_is_cancelled_first(harness: GatewayHarness, status: str) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.01)
    user = harness.user(gateway)
    generation_id = await order(harness, user, status)
    refused = await delete(user, generation_id)
    assert (refused.status_code, refused.json()["code"]) == (409, "generation_under_way")
    assert refused.json()["status_of_generation"] == status
    assert await listed(user) == {generation_id}
    assert await commands(harness) == Counter()


async def test_a_stranger_deletes_nothing(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.01)
    owner, stranger = harness.user(gateway), harness.user(gateway)
    generation_id = await order(harness, owner, "completed")
    for answer in (
        await delete(stranger, generation_id),
        await stranger.post(f"/v1/generations/{generation_id}/repeat", {}, "a key"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "generation_not_found")
    assert await listed(owner) == {generation_id}
    assert await commands(harness) == Counter()


async def test_a_repeated_order_is_a_new_one_with_another_seed(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.01)
    user = harness.user(gateway)
    first = (await user.get(f"/v1/generations/{await order(harness, user, 'completed', CLIP)}")).json()
    path = f"/v1/generations/{first['id']}/repeat"
    again = (await user.post(path, {}, "one")).json()
    assert again["id"] != first["id"]
    seeds = first["parameters"].pop("seed"), again["parameters"].pop("seed")
    assert seeds[0] != seeds[1]
    assert again["parameters"] == first["parameters"]
    assert (await user.post(path, {}, "one")).json()["id"] == again["id"]

    changed = (await user.post(path, {"parameters": {"seed": seeds[0], "duration_seconds": 3}}, "two")).json()
    assert changed["parameters"] == {**first["parameters"], "seed": seeds[0], "duration_seconds": 3}
    assert changed["price_credits"] < first["price_credits"]

    dear = await user.post(path, {"max_price_credits": 1}, "three")
    assert (dear.status_code, dear.json()["code"]) == (409, "price_above_limit")
    reused = await user.post(path, {"parameters": {"seed": 1}}, "one")
    assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")


async def test_a_repeated_key_finds_its_order_after_the_first_one_is_deleted(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.01)
    user = harness.user(gateway)
    first = await order(harness, user, "failed")
    path = f"/v1/generations/{first}/repeat"
    placed = (await user.post(path, {}, "one")).json()
    assert (await delete(user, first)).status_code == 204
    again = await user.post(path, {}, "one")
    assert (again.status_code, again.json().get("id")) == (202, placed["id"]), again.text
    fresh = await user.post(path, {}, "two")
    assert (fresh.status_code, fresh.json()["code"]) == (410, "generation_deleted")


async def test_an_upload_that_is_not_kept_any_more_is_said_to_be_gone(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.01)
    user = harness.user(gateway)
    upload = (await user.post("/v1/uploads", {"content_type": "image/png", "size_bytes": 10})).json()["id"]
    body = {"model_id": "wan-2.2-i2v", "parameters": {"prompt": "it moves", "image": upload}}
    path = f"/v1/generations/{await order(harness, user, 'completed', body)}/repeat"
    assert (await user.post(path, {}, "one")).status_code == 202
    await harness.rows("UPDATE gateway.uploads SET created_at = now() - interval '30 days'")
    refused = await user.post(path, {}, "two")
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_parameters")
    assert [(one["field"], one["code"]) for one in refused.json()["errors"]] == [("parameters.image", "upload_expired")]


async def test_usage_counts_orders_and_credits_by_day_and_model(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.01)
    user, other = harness.user(gateway), harness.user(gateway)
    await order(harness, other, "completed")
    for day, status, body in (
        ("2026-03-01 23:59:59Z", "completed", CLIP),
        ("2026-03-02 00:00:00Z", "completed", CLIP),
        ("2026-03-02 12:00:00Z", "failed", CLIP),
        ("2026-03-02 23:59:59Z", "refused", CLIP),
        ("2026-03-02 12:00:00Z", "completed", PICTURE),
    ):
        generation_id = await order(harness, user, status, body)
        await harness.rows(
            "UPDATE gateway.generations SET requested_at = CAST(CAST(:at AS text) AS timestamptz), captured_credits ="
            " CASE WHEN status = 'completed' THEN price_credits END WHERE generation_id = :id",
            at=day,
            id=generation_id,
        )
    usage = (await user.get("/v1/usage", day_from="2026-03-01", day_to="2026-03-02")).json()
    counted = [tuple(item.values()) for item in usage["items"]]
    assert counted == [
        ("2026-03-02", "flux-schnell", "image", 1, 1, 1),
        ("2026-03-02", "wan-2.2-t2v", "video", 2, 1, 8),
        ("2026-03-01", "wan-2.2-t2v", "video", 1, 1, 8),
    ]
    assert (await user.get("/v1/usage", day_to="2026-03-01")).json()["day_from"] == "2026-01-31"
    today = now().date().isoformat()
    assert (await user.get("/v1/usage")).json()["day_to"] == today
    await delete(user, generation_id)
    assert (await user.get("/v1/usage", day_from="2026-03-02", day_to="2026-03-02")).json()["items"][0]["orders"] == 1
    out_of_range: tuple[dict[str, Any], ...] = (
        {"day_from": "2026-03-02", "day_to": "2026-03-01"},
        {"day_from": "2026-03-01", "day_to": "2026-06-01"},
        {"day_from": "20260301"},
        {"day_from": "0001-01-01"},
        {"day_from": "2026-02-30"},
    )
    for wrong in out_of_range:
        refused = await user.get("/v1/usage", **wrong)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), wrong


async def test_a_completed_generation_says_at_once_what_it_cost(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.01)
    user = harness.user(gateway)
    generation_id = UUID((await user.order(PICTURE)).json()["id"])
    asset = asset_of(generation_id, user.user_id)
    done = completion_of(asset, capture_credits=3)
    # Billing does not run here: nothing is captured.
    await harness.publish("storage", asset, about=generation_id)
    await harness.publish("generation", done, about=generation_id)

    async def completed() -> dict[str, Any] | None:
        shown: dict[str, Any] = (await user.get(f"/v1/generations/{generation_id}")).json()
        return shown if shown["status"] == "completed" else None

    shown = await eventually(completed, what="the completion")
    assert shown["captured_credits"] == 3
