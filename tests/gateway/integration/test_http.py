"""HTTP as the world expects it: HEAD for every GET, a complete Allow, and which pages may call."""

from typing import Any

import httpx
import pytest

from messaging.ids import new_id
from tests.gateway.harness import PICTURE, GatewayHarness
from tests.gateway.unit.test_openapi import OPERATIONS

pytestmark = pytest.mark.timeout(90)

CHANGING = {"content-length", "date", "ratelimit", "trace-id", "transfer-encoding"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def paths() -> dict[str, set[str]]:
    """The methods of every path."""
    methods: dict[str, set[str]] = {}
    for operation in OPERATIONS.values():
        method, path = operation.split(" ")
        methods.setdefault(path, set()).add(method)
    return methods


class Identifiers(dict[str, object]):
    """What stands in addresses: numbers, and ids of what does not exist if nothing else is given."""

    def __missing__(self, name: str) -> object:
        return new_id() if name.endswith("_id") else 1


async def test_head_of_every_route_has_the_headers_of_get_and_no_body(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.05)
    user = harness.user(gateway)
    generation_id = (await user.order(PICTURE)).json()["id"]
    for path, methods in paths().items():
        if "GET" not in methods or path == "/v1/events":
            continue
        address = path.format_map(Identifiers(generation_id=generation_id))
        got = await gateway.http.get(address, headers=user.headers(None))
        head = await gateway.http.head(address, headers=user.headers(None))
        assert (head.status_code, head.content) == (got.status_code, b""), path
        assert kept(head) == kept(got), path
        assert head.headers.get("Content-Length") == got.headers.get("Content-Length"), path
    assert (await gateway.http.head("/v1/balance")).status_code == 401
    assert (await gateway.http.head("/openapi.json")).status_code == 200


def kept(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.lower() not in CHANGING}


async def test_head_of_the_event_stream_ends_and_takes_no_place(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(event_streams_per_user=1)
    user = harness.user(gateway)
    async with user.events():
        head = await gateway.http.head("/v1/events", headers=user.headers(None))
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Type"].startswith("text/event-stream")


async def test_a_wrong_method_is_answered_with_every_right_one(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    user = harness.user(gateway)
    for path, methods in [*paths().items(), ("/openapi.json", {"GET"})]:
        expected = methods | ({"HEAD"} if "GET" in methods else set())
        address = path.format_map(Identifiers())
        for method in sorted(set(METHODS) - expected):
            refused = await gateway.http.request(method, address, headers=user.headers(None))
            assert refused.status_code == 405, (method, path)
            assert set(refused.headers["Allow"].split(", ")) == expected, (method, path)


LOCAL = ("http://localhost:3000", "http://localhost", "http://127.0.0.1:49152", "https://localhost:8443")
FOREIGN = (
    "http://localhost.evil.example",
    "http://localhost:3000.evil.example",
    "http://127.0.0.1.evil.example:80",
    "http://evil.example/localhost",
    "http://127.0.0.2:3000",
    "http://localhost:999999",
    "null",
)


async def allowed_origin(gateway: Any, origin: str) -> str | None:
    """What the preflight of an order and the order itself say alike."""
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    preflight = await gateway.http.options("/v1/generations", headers=asked)
    answer = await gateway.http.post("/v1/generations", headers={"Origin": origin})
    allowed: str | None = answer.headers.get("Access-Control-Allow-Origin")
    assert preflight.headers.get("Access-Control-Allow-Origin") == allowed
    return allowed


async def test_any_local_page_may_call_only_where_that_is_set(harness: GatewayHarness) -> None:
    production = await harness.gateway(cors_origins=["https://app.example.com"])
    assert await allowed_origin(production, "https://app.example.com") == "https://app.example.com"
    for origin in LOCAL:
        assert await allowed_origin(production, origin) is None, origin
    local = await harness.gateway(cors_origins=["https://app.example.com"], cors_localhost=True)
    for origin in ("https://app.example.com", *LOCAL):
        assert await allowed_origin(local, origin) == origin
    for origin in FOREIGN:
        assert await allowed_origin(local, origin) is None, origin
