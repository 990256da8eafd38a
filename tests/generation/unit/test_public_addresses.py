"""A URL from outside must not lead into our own network."""

from collections.abc import Awaitable, Callable

import httpx
import pytest

from generation.public_addresses import ForbiddenAddress, PublicFetcher, is_public


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_the_public_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:8.8.8.8", "64:ff9b::a00:1", "2002:a00:1::1", "2001:db8::1", "not-an-address",
    ],
)  # fmt: skip
def test_everything_else_is_not_public(address: str) -> None:
    assert not is_public(address)


def resolving(*addresses: str) -> Callable[[str], Awaitable[list[str]]]:
    async def resolve(_: str) -> list[str]:
        return list(addresses)

    return resolve


def fetcher(
    resolver: Callable[[str], Awaitable[list[str]]], answer: Callable[[httpx.Request], httpx.Response]
) -> PublicFetcher:
    return PublicFetcher(httpx.AsyncClient(transport=httpx.MockTransport(answer)), resolver)


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"picture")

    async with fetcher(resolving("93.184.216.34"), answer).open(
        "https://files.example.com/a%20b.png?sig=1%2F2"
    ) as response:
        assert await response.aread() == b"picture"
    assert seen[0].url.host == "93.184.216.34"
    assert seen[0].url.raw_path == b"/a%20b.png?sig=1%2F2"
    assert seen[0].headers["host"] == "files.example.com"
    assert seen[0].extensions["sni_hostname"] == "files.example.com"


@pytest.mark.parametrize(
    "url",
    [
        "http://files.example.com/a.png",
        "https://user:pass@files.example.com/a.png",
        "https://files.example.com:8443/a.png",
        "https:///a.png",
        "file:///etc/passwd",
    ],
)
async def test_only_plain_https_addresses_are_fetched(url: str) -> None:
    with pytest.raises(ForbiddenAddress):
        async with fetcher(resolving("93.184.216.34"), lambda _: httpx.Response(200)).open(url):
            pass


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["93.184.216.34", "127.0.0.1"], []])
async def test_a_name_with_any_private_address_is_not_fetched(addresses: list[str]) -> None:
    with pytest.raises(ForbiddenAddress):
        async with fetcher(resolving(*addresses), lambda _: httpx.Response(200)).open(
            "https://files.example.com/a.png"
        ):
            pass


async def test_redirects_are_not_followed() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"location": "https://169.254.169.254/"})

    with pytest.raises(ForbiddenAddress):
        async with fetcher(resolving("93.184.216.34"), answer).open("https://files.example.com/a.png"):
            pass
