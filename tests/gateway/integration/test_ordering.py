"""Orders: verdicts, prices, refusals, limits, and what a repeated key does."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
from prometheus_client import REGISTRY

from catalogue import InvalidParameters
from messaging import broker_watch
from messaging.ids import new_id
from service_runtime.health import Health, ops_app
from tests.gateway.harness import CLIP, PICTURE, Client, GatewayHarness, Replica
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)


async def test_an_order_is_accepted_while_billing_is_away_and_gets_its_verdict_later(
    harness: GatewayHarness,
) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.3)
    user = harness.user(gateway)
    early = await user.order(CLIP, "early")
    assert (early.status_code, early.json()["status"]) == (202, "requested")
    assert early.headers["Location"] == f"/v1/generations/{early.json()['id']}"
    await harness.billing()
    shown = await eventually(lambda: in_status(user, early.json()["id"], "refused"), what="the verdict")
    assert shown["failure"]["code"] == "insufficient_credits"
    again = await user.order(CLIP, "early")
    assert (again.status_code, again.json()["generation_id"]) == (402, early.json()["id"])


async def test_a_gateway_takes_orders_and_stays_in_service_while_its_broker_is_away(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_watch, "ASK_SECONDS", 0.2)
    monkeypatch.setattr(broker_watch, "STALE_SECONDS", 1.0)
    gateway = await harness.gateway(verdict_wait_seconds=0.3)
    await harness.billing()
    user = harness.user(gateway)
    health = Health(gateway.gateway.readiness, gateway.gateway.components, gateway.gateway.degraded_by)
    health.ready = True
    asked = httpx.AsyncClient(transport=httpx.ASGITransport(ops_app(health)), base_url="http://ops")

    async def degraded() -> set[str]:
        answer = await asked.get("/readyz")
        assert answer.status_code == 200, answer.text
        return set(answer.json()["degraded"])

    def writable() -> float | None:
        return REGISTRY.get_sample_value("messaging_broker_writable", {"service": "gateway"})

    async with asked:
        await eventually(lambda: _holds(degraded, set()), what="a gateway that lacks nothing")
        await harness.nats.stop()
        await eventually(lambda: _holds(degraded, {"broker"}), what="the loss of the broker in the answer")
        await eventually(lambda: writable() == 0, what="the metric that the alert reads")
        early = await user.order(PICTURE, "early")
        assert (early.status_code, early.json()["status"]) == (202, "requested")
        await harness.nats.start()
        await eventually(lambda: in_status(user, early.json()["id"], "refused"), 30, "the verdict")
        await eventually(lambda: _holds(degraded, set()), 30, "a gateway that lacks nothing")
        await eventually(lambda: writable() == 1, what="the metric that the alert reads")


async def _holds(ask: Callable[[], Awaitable[set[str]]], wanted: set[str]) -> bool:
    return await ask() == wanted


async def test_a_funded_order_is_201_with_price_and_defaults_and_an_unfunded_one_402(
    harness: GatewayHarness,
) -> None:
    gateway = await harness.gateway()
    await harness.billing()
    user = harness.user(gateway, app_metadata={"plan": "pro"})
    quote = (await user.post("/v1/quotes", CLIP)).json()
    assert quote["price_credits"] == sum(line["credits"] for line in quote["lines"])
    await harness.grant(user.user_id, quote["price_credits"])
    order = await user.order(CLIP | {"max_price_credits": quote["price_credits"]})
    assert order.status_code == 201, order.text
    shown = order.json()
    assert shown["price_credits"] == quote["price_credits"]
    without_seed = {name: value for name, value in shown["parameters"].items() if name != "seed"}
    assert without_seed == {name: value for name, value in quote["parameters"].items() if name != "seed"}
    refused = await user.order(CLIP)
    assert refused.status_code == 402
    assert refused.headers["Content-Type"] == "application/problem+json"
    body = refused.json()
    assert (body["code"], body["required"], body["available"]) == ("insufficient_credits", quote["price_credits"], 0)
    row = (await harness.rows("SELECT lane FROM gateway.generations WHERE generation_id = :id", id=shown["id"]))[0]
    assert row.lane == "pro"


INVALID: list[tuple[dict[str, Any], str, set[str]]] = [
    ({"parameters": {"prompt": ""}}, "invalid_parameters", {"parameters.prompt"}),
    (
        {"parameters": {"prompt": "x", "width": 7, "sampler": "?"}},
        "invalid_parameters",
        {"parameters.width", "parameters.sampler"},
    ),
    ({"parameters": {"prompt": "a\0b"}}, "invalid_parameters", {"parameters.prompt"}),
    ({"parameters": {"prompt": "\ud800"}}, "invalid_parameters", {"parameters.prompt"}),
    ({"parameters": {"prompt": "x", "width": float("nan")}}, "invalid_parameters", {"parameters.width"}),
    ({"parameters": {"prompt": "x", "width": float("inf")}}, "invalid_parameters", {"parameters.width"}),
    ({"parameters": {"prompt": "x"}, "price_credits": 1}, "invalid_request", {"price_credits"}),
    *(
        ({"parameters": {"prompt": "x"}, "start_within_seconds": value}, "invalid_request", {"start_within_seconds"})
        for value in (0, -1, 86_401, 1.5, "60", True)
    ),
    *(
        ({"parameters": {"prompt": "x"}, "count": value}, "invalid_request", {"count"})
        for value in (0, 5, 1.5, "2", True, None)
    ),
    ({"parameters": {"prompt": "x"}, "user_id": str(uuid4())}, "invalid_request", {"user_id"}),
    ({}, "invalid_request", {"parameters"}),
]


async def test_an_invalid_order_is_refused_and_stores_nothing(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    user = harness.user(gateway)
    for change, code, fields in INVALID:
        refused = await send_json(user, {"model_id": "flux-schnell", **change})
        assert (refused.status_code, refused.json()["code"]) == (422, code), (change, refused.text)
        named = {error["field"] for error in refused.json()["errors"]}
        assert fields <= named, (change, named)
    image = {"prompt": "it comes alive", "image": str(uuid4())}
    for unknown in (image["image"], "x" * 36):
        refused = await user.order({"model_id": "wan-2.2-i2v", "parameters": image | {"image": unknown}})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "parameters.image")
    assert (await user.order({"model_id": "dall-e", "parameters": {}})).json()["code"] == "model_not_found"
    price = (await user.post("/v1/quotes", CLIP)).json()["price_credits"]
    dear = await user.order(CLIP | {"max_price_credits": price - 1})
    assert (dear.status_code, dear.json()["code"]) == (409, "price_above_limit")
    assert dear.json()["price_credits"] == price
    assert (await user.post("/v1/generations", PICTURE)).json()["code"] == "idempotency_key_missing"
    assert (await user.order(PICTURE, "k" * 201)).json()["code"] == "idempotency_key_missing"
    broken = await send_json(user, "{")
    assert (broken.status_code, broken.json()["code"]) == (400, "malformed_request")
    deep = await send_json(
        user, '{"model_id": "flux-schnell", "parameters": {"prompt": ' + "[" * 500 + "]" * 500 + "}}"
    )
    assert deep.status_code in (400, 422), deep.text
    for depth in range(900, 1000):
        value = "[" * depth + "]" * depth
        deep = await send_json(user, '{"model_id": "flux-schnell", "parameters": {"prompt": ' + value + "}}")
        assert deep.status_code in (400, 422), deep.text
    many = await send_json(
        user, json.dumps({"model_id": "flux-schnell", "parameters": {f"p{n}": 1 for n in range(900)}})
    )
    assert (many.status_code, len(many.json()["errors"])) == (422, 20)
    names = await send_json(user, '{"model_id": "flux-schnell", "parameters": {"prompt": "x"}, "\\ud800": 1}')
    assert names.status_code in (400, 422), names.text
    names = await send_json(user, '{"model_id": "flux-schnell", "parameters": {"prompt": "x", "\\ud800": 1}}')
    assert names.status_code in (400, 422), names.text
    large = await user.order(PICTURE | {"parameters": {"prompt": "x" * 70_000}})
    assert (large.status_code, large.json()["code"]) == (413, "body_too_large")
    assert await harness.rows("SELECT 1 FROM gateway.generation_requests") == []


async def test_a_repeated_key_returns_the_first_result_and_another_body_is_refused(
    harness: GatewayHarness,
) -> None:
    gateway = await harness.gateway()
    await harness.billing()
    user = harness.user(gateway)
    await harness.grant(user.user_id, 1000)
    first = await user.order(PICTURE, "key")
    again = await user.order({"parameters": PICTURE["parameters"], "model_id": PICTURE["model_id"]}, "key")
    assert (first.status_code, again.status_code, again.headers["Idempotent-Replayed"]) == (201, 200, "true")
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["parameters"] == first.json()["parameters"]
    assert (await user.get(f"/v1/generations/{first.json()['id']}")).json() == first.json()
    for changed in (CLIP, PICTURE | {"start_within_seconds": 60}):
        other = await user.order(changed, "key")
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    stranger = harness.user(gateway)
    assert (await stranger.order(PICTURE, "key")).status_code == 402, "keys belong to their user"
    await gateway.stack.aclose()
    rebuilt = await harness.gateway()
    user = harness.user(rebuilt, user.user_id)
    rebuilt.gateway.dependencies.catalogue._by_id.clear()
    assert (await user.order(PICTURE)).status_code == 404, "the model is no longer on offer"
    later = await user.order(PICTURE, "key")
    assert (later.status_code, later.json()["id"]) == (200, first.json()["id"])
    stranger = harness.user(rebuilt, stranger.user_id)
    assert (await stranger.order(PICTURE, "key")).status_code == 402


async def test_a_retired_model_is_not_listed_and_takes_no_orders(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    await harness.billing()
    user = harness.user(gateway)
    await harness.grant(user.user_id, 1000)
    first = await user.order(PICTURE, "key")
    retire(gateway, PICTURE["model_id"])
    listed = (await gateway.http.get("/v1/models")).json()["items"]
    assert listed
    assert PICTURE["model_id"] not in {model["id"] for model in listed}
    refused = await user.order(PICTURE)
    assert (refused.status_code, refused.json()["code"]) == (404, "model_not_found")
    quote = await user.http.post("/v1/quotes", json=PICTURE, headers=user.headers(None))
    assert quote.status_code == 404
    shown = await user.get(f"/v1/generations/{first.json()['id']}")
    assert (shown.status_code, shown.json()["model_id"]) == (200, PICTURE["model_id"])
    listed = (await user.get("/v1/generations", model_id=PICTURE["model_id"])).json()["items"]
    assert [generation["id"] for generation in listed] == [first.json()["id"]]
    assert (await user.order(PICTURE, "key")).status_code == 200, "a repeated request gets its first result"


def retire(gateway: Replica, model_id: str) -> None:
    """Take a model from sale, as a new version of its data file does."""
    dependencies = gateway.gateway.dependencies
    models = tuple(
        msgspec.structs.replace(model, retired=model.retired or model.id == model_id)
        for model in dependencies.catalogue.models
    )
    dependencies.catalogue.__init__(models)  # type: ignore[misc]


async def test_one_key_from_ten_connections_is_one_order_and_one_reservation(harness: GatewayHarness) -> None:
    replicas = [await harness.gateway(), await harness.gateway()]
    await harness.billing()
    user_id = new_id()
    await harness.grant(user_id, 1000)
    users = [harness.user(replicas[number % 2], user_id) for number in range(10)]
    answers = await asyncio.gather(*(user.order(PICTURE, "one") for user in users))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 9}
    assert len({answer.json()["id"] for answer in answers}) == 1
    reserved = await harness.rows("SELECT count(*) AS total FROM billing.reservations WHERE user_id = :id", id=user_id)
    assert reserved[0].total == 1


async def test_the_last_place_goes_to_one_key_and_to_each_of_its_requests(harness: GatewayHarness) -> None:
    replicas = [await harness.gateway(max_open_generations=1, verdict_wait_seconds=0.05) for _ in range(2)]
    user_id = new_id()
    keys = ["one", "two"] * 5
    users = [harness.user(replicas[number % 3 % 2], user_id) for number in range(len(keys))]
    answers = await asyncio.gather(*(user.order(PICTURE, key) for user, key in zip(users, keys, strict=True)))
    taken = {key for key, answer in zip(keys, answers, strict=True) if answer.status_code == 202}
    assert len(taken) == 1, [answer.text for answer in answers]
    for key, answer in zip(keys, answers, strict=True):
        if key in taken:
            assert answer.status_code == 202
        else:
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_open_generations")
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    assert len(await harness.rows("SELECT 1 FROM gateway.generations WHERE user_id = :id", id=user_id)) == 1


async def test_of_ten_orders_at_once_on_credits_for_three_seven_are_refused(
    harness: GatewayHarness,
) -> None:
    replicas = [await harness.gateway(), await harness.gateway()]
    await harness.billing()
    user_id = new_id()
    users = [harness.user(replicas[number % 2], user_id) for number in range(10)]
    body = ten_credits(replicas[0])
    await harness.grant(user_id, 30)
    answers = await asyncio.gather(*(user.order(body) for user in users))
    assert Counter(answer.status_code for answer in answers) == {201: 3, 402: 7}
    for answer in answers:
        if answer.status_code == 402:
            assert answer.json()["required"] == 10
            assert answer.json()["available"] < 10

    async def settled() -> None:
        balance = (await users[0].get("/v1/balance")).json()
        assert (balance["available_credits"], balance["reserved_credits"]) == (0, 30)

    await eventually(lambda: holds(settled), what="the balance")


async def test_writes_and_open_generations_of_a_user_are_limited(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(writes_per_minute=3, max_open_generations=1, verdict_wait_seconds=0.05)
    user = harness.user(gateway)
    first = await user.order(PICTURE, "first")
    assert first.status_code == 202
    full = await user.order()
    assert (full.status_code, full.json()["code"], full.headers["Retry-After"]) == (
        429,
        "too_many_open_generations",
        "10",
    )
    assert (await user.post(f"/v1/generations/{first.json()['id']}/cancel")).status_code == 202
    limited = await user.order()
    assert (limited.status_code, limited.json()["code"], limited.headers["Retry-After"]) == (429, "rate_limited", "20")
    assert limited.json()["retryable"] is True
    assert (await user.order(PICTURE, "first")).status_code == 202, "a repetition takes nothing from the allowance"
    assert (await harness.user(gateway).order()).status_code == 202, "nor does it concern anybody else"


async def test_the_write_limit_refills_with_time_and_refused_orders_count(
    harness: GatewayHarness,
) -> None:
    gateway = await harness.gateway(writes_per_minute=3, verdict_wait_seconds=0.05)
    user = harness.user(gateway)
    unknown = {"model_id": "wan-2.2-i2v", "parameters": {"prompt": "x", "image": str(new_id())}}
    for seconds, allowed in ((0, 3), (41, 2), (3600, 3)):
        await harness.rows(f"UPDATE gateway.write_allowances SET counted_at = counted_at - interval '{seconds} s'")
        answers = [await user.order(unknown) for _ in range(allowed + 1)]
        codes = [answer.json()["code"] for answer in answers]
        assert codes == ["invalid_parameters"] * allowed + ["rate_limited"]
        told = [f'"writes";r={remaining};t=20' for remaining in (*reversed(range(allowed)), 0)]
        assert [answer.headers["RateLimit"].split(", ")[-1] for answer in answers] == told
        assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"reads";q=1200;w=60, "writes";q=3;w=60'}


async def test_an_unavailable_database_is_503_and_every_answer_allows_its_origin(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(cors_origins=["https://app.example.com"], verdict_wait_seconds=0.05)
    user = harness.user(gateway)
    origin = {"Origin": "https://app.example.com"}
    allowed = (await user.get("/v1/balance", headers=origin)).headers
    assert (allowed["Access-Control-Allow-Origin"], allowed["Cache-Control"]) == (origin["Origin"], "no-store")
    assert (
        "Access-Control-Allow-Origin"
        not in (await user.get("/v1/balance", headers={"Origin": "https://evil.example"})).headers
    )
    await harness.rows("ALTER ROLE gateway NOLOGIN")
    try:
        await harness.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gateway'")
        away = await eventually(lambda: failing(user, origin), what="the failure")
        assert (away.status_code, away.json()["code"], away.json()["retryable"]) == (503, "unavailable", True)
        assert away.headers["Access-Control-Allow-Origin"] == origin["Origin"]
    finally:
        await harness.rows("ALTER ROLE gateway LOGIN")


async def failing(user: Client, headers: dict[str, str]) -> Any:
    answer = await user.get("/v1/balance", headers=headers)
    return answer if answer.status_code != 200 else None


def ten_credits(gateway: Replica) -> dict[str, Any]:
    """A request whose price is exactly 10."""
    model = gateway.gateway.dependencies.catalogue.model("wan-2.2-t2v")
    for seconds in range(1, 6):
        for width in range(256, 1281, 64):
            parameters = {"prompt": "x", "width": width, "height": 512, "duration_seconds": seconds}
            try:
                if model.quote(model.complete(parameters)).price_credits == 10:
                    return {"model_id": model.id, "parameters": parameters}
            except InvalidParameters:
                continue
    raise AssertionError("nothing costs 10 credits")


async def send_json(user: Client, body: Any) -> Any:
    text = body if isinstance(body, str) else json.dumps(body)
    headers = user.headers({"Idempotency-Key": str(uuid4()), "Content-Type": "application/json"})
    return await user.http.post("/v1/generations", content=text.encode(), headers=headers)


async def in_status(user: Client, generation_id: str, status: str) -> Any:
    shown = (await user.get(f"/v1/generations/{generation_id}")).json()
    return shown if shown["status"] == status else None


async def holds(check: Any) -> bool:
    await check()
    return True
