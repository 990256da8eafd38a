"""Input of another type than the description names is refused, in short answers; bodies are JSON."""

import re
from typing import Any

import pytest

from local_platform.openapi import describe_api
from tests.gateway.harness import PICTURE
from tests.gateway.unit.unconnected import UnconnectedHarness

KEY = {"Idempotency-Key": "key"}
LONGEST_ANSWER = 16_000


@pytest.fixture(scope="module")
def harness() -> UnconnectedHarness:
    return UnconnectedHarness()


BODIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "true is no number": ("generations", {**PICTURE, "max_price_credits": True}, "max_price_credits"),
    "text is no number": ("uploads", {"content_type": "image/png", "size_bytes": "5"}, "size_bytes"),
    "true is no size": ("uploads", {"content_type": "image/png", "size_bytes": True}, "size_bytes"),
    "a fraction is no size": ("uploads", {"content_type": "image/png", "size_bytes": 5.5}, "size_bytes"),
    "a number is no pack": ("payments", {"pack_id": 5, "provider": "stripe"}, "pack_id"),
    "text is no parameter of a number": (
        "quotes",
        {"model_id": "wan-2.2-t2v", "parameters": {"prompt": "x", "duration_seconds": "5"}},
        "parameters.duration_seconds",
    ),
    "true is no parameter of a number": (
        "quotes",
        {"model_id": "wan-2.2-t2v", "parameters": {"prompt": "x", "duration_seconds": True}},
        "parameters.duration_seconds",
    ),
}


@pytest.mark.parametrize(("route", "body", "field"), BODIES.values(), ids=BODIES)
async def test_a_body_of_other_types_is_refused(
    harness: UnconnectedHarness, route: str, body: dict[str, Any], field: str
) -> None:
    refused = await harness.send("POST", f"/v1/{route}", harness.token(), json=body, headers=KEY)
    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["errors"]] == [field]


QUERIES = (
    "generations?limit=1_0",
    "generations?limit=%2B5",
    "generations?limit=%205",
    "generations?limit=5.0",
    "generations?limit=%EF%BC%95",
    "generations?requested_from=0.5",
    "generations?requested_from=1700000000",
    "generations?requested_from=2026-11-23",
    "generations?requested_to=2026-11-23T09:30:00",
    "ledger?before=1_0",
    "payments?cursor=" + "x" * 201,
)


@pytest.mark.parametrize("query", QUERIES)
async def test_a_query_that_only_python_would_understand_is_refused(harness: UnconnectedHarness, query: str) -> None:
    refused = await harness.send("GET", f"/v1/{query}", harness.token())
    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["errors"]] == [re.findall(r"[?](\w+)=", query)[0]]


@pytest.mark.parametrize(("given", "status"), [("", 200), ("7", 200), ("1_0", 422), ("-1", 422), ("x", 422)])
async def test_an_empty_last_event_id_begins_now(harness: UnconnectedHarness, given: str, status: int) -> None:
    answer = await harness.send("HEAD", "/v1/events", harness.token(), headers={"Last-Event-ID": given})
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/jsonp", 415),
        ("", 415),
    ],
)
async def test_a_body_that_does_not_say_it_is_json_is_415(
    harness: UnconnectedHarness, media_type: str, status: int
) -> None:
    body = b'{"model_id": "flux-schnell", "parameters": {"prompt": "x"}}'
    headers = {"Content-Type": media_type} if media_type else {}
    answer = await harness.send("POST", "/v1/quotes", harness.token(), content=body, headers=headers)
    assert answer.status_code == status
    if status == 415:
        assert (answer.json()["code"], answer.headers["Accept"]) == ("unsupported_media_type", "application/json")


async def test_no_refusal_is_long_however_much_was_sent(harness: UnconnectedHarness) -> None:
    many = {f"u{number}": 1 for number in range(5000)}
    long = "n" * 60_000
    bodies: list[dict[str, Any]] = [
        {**PICTURE, **many},
        {"model_id": "flux-schnell", "parameters": dict.fromkeys(list(many)[:900], 1)},
        {**PICTURE, long: 1},
        {"model_id": "flux-schnell", "parameters": {"prompt": "x", long: 1}},
        {"model_id": "flux-schnell", "parameters": {"prompt": long}},
        {"model_id": long, "parameters": {}},
        {"model_id": "flux-schnell", "parameters": {"prompt": "x", "width": long}},
    ]
    for body in bodies:
        refused = await harness.send("POST", "/v1/quotes", harness.token(), json=body)
        assert refused.status_code == 422
        assert len(refused.content) < LONGEST_ANSWER
    for path in (f"/{long}", f"/v1/generations/{long}", f"/v1/generations?status={long}"):
        refused = await harness.send("GET", path, harness.token())
        assert refused.status_code in (404, 422)
        assert len(refused.content) < LONGEST_ANSWER


def _unbounded(schema: Any, where: str) -> list[str]:
    """The texts and lists below ``schema`` of which it does not say how long they may be."""
    if not isinstance(schema, dict):
        return []
    found = [one for name, part in schema.items() for one in _unbounded_parts(part, f"{where}.{name}")]
    kind = str(schema.get("type"))
    bounded = {"string": ("maxLength", "enum", "const", "format"), "array": ("maxItems",)}.get(kind, ())
    if kind == "object" and schema.get("additionalProperties") is True:
        bounded = ("maxProperties",)
    return [*found, where] if bounded and not any(name in schema for name in bounded) else found


def _unbounded_parts(part: Any, where: str) -> list[str]:
    parts = part if isinstance(part, list) else [part]
    return [one for each in parts for one in _unbounded(each, where)]


def test_the_description_says_how_long_everything_may_be_that_is_sent() -> None:
    document = describe_api()
    operations = [(route, one) for route, methods in document["paths"].items() for one in methods.values()]
    sent: dict[str, Any] = {
        f"{route} {parameter['name']}": parameter["schema"]
        for route, one in operations
        for parameter in one.get("parameters", ())
    }
    bodies = [
        one["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        for _, one in operations
        if "requestBody" in one
    ]
    schemas = document["components"]["schemas"]
    sent |= {
        name: {k: v for k, v in schemas[name].items() if k != "example"}
        for name in (ref.rpartition("/")[2] for ref in bodies)
    }
    assert len(sent) > 10
    assert [one for name, schema in sent.items() for one in _unbounded(schema, name)] == []
    pages = {name: schema for name, schema in schemas.items() if name.endswith("Page")}
    assert {schema["properties"]["items"]["maxItems"] for schema in pages.values()} == {100}
    for name, schema in sent.items():
        assert not {"ge", "le"} & set(str(schema).replace("'", " ").split()), f"{name}: no words of JSON Schema"
