"""Lists, filters, timelines, cancelling, balances and statements."""

import contextlib
import csv
import io
from fractions import Fraction
from math import ceil
from typing import Any
from uuid import UUID, uuid4

import pytest

from contracts.generation import CancelGeneration, GenerationFailed, GenerationQueued
from gateway.admission import HISTORIES_OF_ONE_USER
from tests.gateway.harness import CLIP, PICTURE, Client, GatewayHarness, now
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)


async def test_pages_list_every_generation_once_newest_first_and_filters_apply(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.01)
    user = harness.user(gateway)
    ids = [(await user.order(CLIP if number % 3 == 0 else PICTURE)).json()["id"] for number in range(7)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        parameters: dict[str, Any] = {"cursor": cursor} if cursor else {}
        page = (await user.get("/v1/generations", limit=3, **parameters)).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        # What is ordered meanwhile belongs before the first page.
        assert (await user.order(PICTURE)).status_code == 202
        if cursor is None:
            break
    assert seen == ids[::-1]
    clips = (await user.get("/v1/generations", kind="video")).json()["items"]
    assert [item["id"] for item in clips] == [ids[6], ids[3], ids[0]]
    assert (await user.get("/v1/generations", model_id="flux-schnell", limit=100)).json()["items"][0]["kind"] == "image"
    assert (await user.get("/v1/generations", status="completed")).json()["items"] == []
    moment = clips[1]["requested_at"]
    since = (await user.get("/v1/generations", requested_from=moment, kind="video")).json()["items"]
    before = (await user.get("/v1/generations", requested_to=moment, kind="video")).json()["items"]
    assert ([item["id"] for item in since], [item["id"] for item in before]) == ([ids[6], ids[3]], [ids[0]])


UNREADABLE: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/generations", {"cursor": "invented"}, "invalid_cursor"),
    ("/v1/generations", {"limit": "0"}, "invalid_request"),
    ("/v1/generations", {"limit": "101"}, "invalid_request"),
    ("/v1/generations", {"status": "done"}, "invalid_request"),
    ("/v1/generations", {"model_id": "\0"}, "invalid_request"),
    ("/v1/generations", {"requested_from": "2026-11-23T00:00:00"}, "invalid_request"),
    ("/v1/generations", {"requested_from": "0001-01-01T00:00:00+14:00"}, "invalid_request"),
    ("/v1/generations/42", {}, "invalid_request"),
    ("/v1/ledger", {"before": "9" * 30}, "invalid_request"),
    ("/v1/ledger", {"before": "0"}, "invalid_request"),
    ("/v1/ledger", {"format": "pdf"}, "invalid_request"),
    ("/v1/nothing", {}, "not_found"),
    ("/v1/balance/", {}, "not_found"),
]


async def test_an_unreadable_request_is_a_problem_and_never_a_500(harness: GatewayHarness) -> None:
    user = harness.user(await harness.gateway())
    for path, parameters, code in UNREADABLE:
        answer = await user.get(path, **parameters)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["code"] == code, (path, parameters, answer.text)
    for number in ("-1", "9" * 30, "x"):
        answer = await user.get("/v1/events", headers={"Last-Event-ID": number})
        assert answer.json()["code"] == "invalid_request"
    assert (await user.http.put("/v1/generations", headers=user.headers(None))).json()["code"] == "method_not_allowed"


async def test_cancelling_works_until_the_end_and_the_timeline_lists_every_step(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.05)
    user = harness.user(gateway)
    generation_id = UUID((await user.order(CLIP)).json()["id"])
    path = f"/v1/generations/{generation_id}"
    await harness.publish(
        "generation",
        GenerationQueued(generation_id=generation_id, user_id=user.user_id, version=1, lane="free"),
        about=generation_id,
    )
    await eventually(lambda: status_is(user, path, "queued"), what="the queue")
    for _ in range(2):
        accepted = await user.post(f"{path}/cancel")
        assert (accepted.status_code, accepted.json()["id"]) == (202, str(generation_id))
    asked = await harness.rows(
        "SELECT user_id FROM (SELECT convert_from(payload, 'UTF8')::jsonb ->> 'user_id' AS user_id, subject"
        " FROM gateway.outbox_messages) AS o WHERE subject = :subject",
        subject=CancelGeneration.subject,
    )
    assert [row.user_id for row in asked] == [str(user.user_id)] * 2
    failed = GenerationFailed(
        generation_id=generation_id,
        user_id=user.user_id,
        version=2,
        code="invalid_input",
        detail="the picture is none",
        failed_at=now(),
    )
    await harness.publish("generation", failed, about=generation_id)
    await eventually(lambda: status_is(user, path, "failed"), what="the failure")
    ended = await user.post(f"{path}/cancel")
    assert (ended.status_code, ended.json()["code"]) == (409, "generation_ended")
    assert (await user.post(f"/v1/generations/{uuid4()}/cancel")).status_code == 404
    shown = (await user.get(path)).json()
    assert shown["failure"] == {"code": "invalid_input", "detail": "the picture is none"}
    timeline = (await user.get(f"{path}/timeline")).json()["items"]
    assert [entry["name"] for entry in timeline] == ["requested", "queued", "failed"]
    assert timeline[0]["since_previous_ms"] is None
    assert all(entry["since_previous_ms"] >= 0 for entry in timeline[1:])


async def test_the_balance_and_statement_add_up_line_by_line_without_formulas(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    await harness.billing()
    user = harness.user(gateway)
    empty = (await user.get("/v1/balance")).json()
    assert (empty["available_credits"], empty["updated_at"]) == (0, None)
    note = '=HYPERLINK("https://evil.example", "x")'
    await harness.grant(user.user_id, 500, note)
    for _ in range(2):
        assert (await user.order(PICTURE)).status_code == 201
    # Reservations are answered before they stand in the statement.
    items = await eventually(lambda: lines(user, 3), what="three lines")
    assert [item["line_number"] for item in items] == [3, 2, 1]
    balance = (await user.get("/v1/balance")).json()
    assert balance["available_credits"] + balance["reserved_credits"] == 500
    page = (await user.get("/v1/ledger", limit=2)).json()
    rest = (await user.get("/v1/ledger", limit=2, before=page["next_before"])).json()
    assert (page["items"] + rest["items"], rest["next_before"]) == (items, None)
    for options in ({"format": "csv"}, {"headers": {"Accept": "text/csv"}}):
        statement = await user.get("/v1/ledger", **options)
        assert statement.headers["Content-Type"].startswith("text/csv")
        assert "attachment" in statement.headers["Content-Disposition"]
        rows = list(csv.DictReader(io.StringIO(statement.text)))
        assert [row["line_number"] for row in rows] == ["1", "2", "3"]
        assert rows[0]["note"] == f"'{note}"
        for kind in ("available", "reserved", "receivable"):
            total = 0
            for row in rows:
                total += int(row[f"{kind}_delta_credits"])
                assert total == int(row[f"{kind}_after_credits"])
            assert total == balance[f"{kind}_credits"]
    assert {row["generation_id"] for row in rows[1:]} == {item["generation_id"] for item in items[:2]}


async def test_answers_from_all_of_a_users_history_are_made_four_at_a_time(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    user, other = harness.user(gateway), harness.user(gateway)
    long: list[tuple[str, dict[str, Any]]] = [
        ("/v1/ledger", {"format": "csv"}),
        ("/v1/usage", {}),
        ("/v1/generations", {"kind": "image", "status": "failed"}),
    ]
    short: list[tuple[str, dict[str, Any]]] = [("/v1/ledger", {}), ("/v1/generations", {"kind": "image"})]
    with contextlib.ExitStack() as under_way:
        for _ in range(HISTORIES_OF_ONE_USER):
            under_way.enter_context(gateway.gateway.dependencies.admission.reading_history(user.user_id))
        refused = [await user.get(path, **filters) for path, filters in long]
        assert [(one.status_code, one.json()["code"]) for one in refused] == [(429, "rate_limited")] * len(long)
        assert [(await user.get(path, **filters)).status_code for path, filters in short] == [200] * len(short)
        assert [(await other.get(path, **filters)).status_code for path, filters in long] == [200] * len(long)
    for _ in range(2):
        assert [(await user.get(path, **filters)).status_code for path, filters in long] == [200] * len(long)


async def test_models_and_packs_are_public_and_models_have_an_etag(harness: GatewayHarness) -> None:
    http = (await harness.gateway()).http
    models = await http.get("/v1/models")
    tag = models.headers["ETag"]
    assert {"id", "parameters_schema", "price"} <= set(models.json()["items"][0])
    for same in (tag, f"W/{tag}", f'"other", {tag}'):
        assert (await http.get("/v1/models", headers={"If-None-Match": same})).status_code == 304
    assert (await http.get("/v1/models", headers={"If-None-Match": '"other"'})).status_code == 200
    packs = (await http.get("/v1/credit-packs")).json()["items"]
    assert [pack["price_cents"] for pack in packs] == sorted(pack["price_cents"] for pack in packs)


async def test_a_client_can_compute_every_quote_from_the_price_rules(harness: GatewayHarness) -> None:
    user = harness.user(await harness.gateway())
    models = {model["id"]: model for model in (await user.http.get("/v1/models")).json()["items"]}
    for model_id, asked in (
        ("flux-schnell", {"width": 1024, "height": 768, "steps": 8}),
        ("wan-2.2-t2v", {"width": 1280, "height": 704, "duration_seconds": 4, "steps": 25}),
        ("wan-2.2-t2v", {"width": 512, "height": 512, "duration_seconds": 2, "steps": 4}),
    ):
        body = {"model_id": model_id, "parameters": {"prompt": "a lighthouse", **asked}}
        answer = await user.http.post("/v1/quotes", json=body, headers=user.headers(None))
        assert answer.status_code == 200, answer.text
        assert answer.json()["price_credits"] == price_of(models[model_id], answer.json()["parameters"])


async def test_a_form_that_is_not_finished_has_a_price(harness: GatewayHarness) -> None:
    user = harness.user(await harness.gateway())
    clip = {"model_id": "wan-2.2-i2v", "parameters": {"prompt": " ", "duration_seconds": 2}}
    quote = (await user.post("/v1/quotes", clip)).json()
    assert quote["missing"] == ["image", "prompt"]
    whole = {**clip, "parameters": {"prompt": "it moves", "duration_seconds": 2, "image": str(uuid4())}}
    priced = (await user.post("/v1/quotes", whole)).json()
    assert (priced["missing"], priced["price_credits"]) == ([], quote["price_credits"])
    wrong = await user.post("/v1/quotes", {**clip, "parameters": {"duration_seconds": 0}})
    assert (wrong.status_code, [one["field"] for one in wrong.json()["errors"]]) == (
        422,
        ["parameters.duration_seconds"],
    )
    refused = await user.order(clip)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_parameters")


def price_of(model: dict[str, Any], parameters: dict[str, Any]) -> int:
    """The price, from what the API says and nothing else."""
    pixels = parameters["width"] * parameters["height"]
    seconds = parameters.get("duration_seconds", 0)
    amounts = {
        "base_credits": Fraction(1),
        "per_second_credits": Fraction(seconds),
        "per_megapixel_credits": Fraction(pixels, 1_000_000),
        "per_megapixel_second_credits": Fraction(pixels, 1_000_000) * seconds,
    }
    # The steps choose the tier: the last one that begins at or below them.
    model = [tier for tier in model["tiers"] if tier["from_steps"] <= parameters["steps"]][-1]
    total: Fraction = sum((Fraction(rate) * amounts[name] for name, rate in model["price"].items()), Fraction(0))
    tiers = model["surcharges"]["resolutions"]
    if tiers:
        total *= Fraction(next((tier for tier in tiers if pixels <= tier["up_to_pixels"]), tiers[-1])["factor"])
    if steps := model["surcharges"]["steps"]:
        extra = max(0, parameters["steps"] - steps["included"])
        total *= 1 + extra * Fraction(steps["share_per_extra_step"])
    return ceil(total)


async def status_is(user: Client, path: str, status: str) -> bool:
    return bool((await user.get(path)).json()["status"] == status)


async def lines(user: Client, count: int) -> list[dict[str, Any]] | None:
    items: list[dict[str, Any]] = (await user.get("/v1/ledger")).json()["items"]
    return items if len(items) == count else None
