"""Floods: what one address and one user may do in a while at one replica, and what they are told about it.

What is asked for here needs no database, so that the application can be called without one.
"""

import asyncio
from collections import Counter
from uuid import uuid4

import httpx
import pytest

from tests.gateway.harness import PICTURE
from tests.gateway.unit.unconnected import UnconnectedHarness, settings


class FloodHarness(UnconnectedHarness):
    """Many requests of one kind."""

    async def quote(self, token: str | None) -> httpx.Response:
        return await self.send("POST", "/v1/quotes", token, json=PICTURE)

    async def quotes(self, token: str, count: int, address: str = "198.51.100.1") -> list[int]:
        """The statuses of so many quotes."""
        answers = [await self.send("POST", "/v1/quotes", token, address, json=PICTURE) for _ in range(count)]
        return [answer.status_code for answer in answers]

    async def models(self, *addresses: str) -> list[int]:
        """The status of the public list for each of these callers."""
        return [(await self.send("GET", "/v1/models", address=address)).status_code for address in addresses]


async def test_refused_tokens_of_one_address_are_limited_and_users_are_not() -> None:
    harness = FloodHarness(anonymous_requests_per_minute=3)
    known, forged = harness.token(), harness.token(secret="of-somebody-else-and-long-enough")
    assert await harness.quotes(known, 1) == [200]
    answers = [await harness.quote(forged) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
    assert answers[2].headers["RateLimit"] == '"address";r=0;t=20'
    limited = answers[3]
    assert (limited.json()["code"], limited.headers["RateLimit-Policy"]) == ("rate_limited", '"address";q=3;w=60')
    assert 0 < int(limited.headers["Retry-After"]) <= 20

    assert await harness.quotes(known, 5) == [200] * 5, "a known token is not locked out"
    assert await harness.quotes(harness.token(), 1) == [429], "another one is refused before it is verified"
    for token in (known, harness.token(), harness.token()):
        assert await harness.quotes(token, 5, "198.51.100.2") == [200] * 5, "who signs in is not counted"


async def test_forged_tokens_that_come_at_once_do_not_all_pass() -> None:
    harness = FloodHarness(anonymous_requests_per_minute=3)
    answers = await asyncio.gather(*(harness.quote("forged") for _ in range(12)))
    assert Counter(answer.status_code for answer in answers) == {401: 3, 429: 9}


async def test_public_pages_are_limited_by_address_and_a_site_is_one_address() -> None:
    harness = FloodHarness(anonymous_requests_per_minute=2)
    assert await harness.models(*["198.51.100.1"] * 3) == [200, 200, 429]
    assert (await harness.send("HEAD", "/v1/credit-packs")).status_code == 429
    assert await harness.models("::ffff:198.51.100.1", "198.51.100.2") == [429, 200]
    # Who has one address of an IPv6 site has them all.
    assert await harness.models("2001:db8::1", "2001:db8::2:0:0:1", "2001:db8::3", "2001:db8:0:1::1") == [
        *(200, 200, 429, 200)
    ]


async def test_reads_and_quotes_of_a_user_are_limited_and_say_so() -> None:
    harness = FloodHarness(reads_per_minute=3, quotes_per_minute=2)
    token = harness.token()
    reads = [await harness.send("HEAD", "/v1/events", token) for _ in range(4)]
    assert [answer.status_code for answer in reads] == [200, 200, 200, 429]
    assert [answer.headers["RateLimit"] for answer in reads[:3]] == [f'"reads";r={n};t=20' for n in (2, 1, 0)]
    assert {answer.headers["RateLimit-Policy"] for answer in reads} == {'"reads";q=3;w=60'}
    limited = await harness.send("GET", "/v1/balance", token)
    assert (limited.status_code, limited.json()["code"], limited.json()["retryable"]) == (429, "rate_limited", True)
    other = harness.token()
    quotes = [await harness.quote(other) for _ in range(3)]
    assert [answer.status_code for answer in quotes] == [200, 200, 429]
    assert quotes[2].headers["RateLimit-Policy"] == '"reads";q=3;w=60, "quotes";q=2;w=60'


async def test_what_takes_nothing_from_the_writes_of_a_user_is_limited_all_the_same() -> None:
    asked = ("/v1/generations", "/v1/payments", f"/v1/generations/{uuid4()}/repeat")
    for path in asked:
        harness = FloodHarness(reads_per_minute=3)
        token = harness.token()
        answers = [await harness.send("POST", path, token, json={}) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [400, 400, 400, 429], path
    harness = FloodHarness(reads_per_minute=3)
    token = harness.token()
    deletions = [await harness.send("DELETE", "/v1/generations/none", token) for _ in range(4)]
    assert [answer.status_code for answer in deletions] == [422, 422, 422, 429]


@pytest.mark.parametrize("proxies", ['["*"]', '["proxy.example"]', '["10.0.0.1/8"]'])
def test_a_proxy_is_trusted_by_its_network_and_by_nothing_vaguer(proxies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TRUSTED_PROXIES", proxies)
    with pytest.raises(ValueError, match="trusted_proxies"):
        settings()
