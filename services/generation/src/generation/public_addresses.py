"""Fetch a file from an untrusted address without being led into our own network.

The name is resolved once, every address is checked, and the connection goes to the checked address itself: a second
answer of the name server cannot lead elsewhere. TLS is verified against the name. Redirects are not followed.
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import httpx

Resolver = Callable[[str], Awaitable[list[str]]]

_PUBLIC_PORT: Final = 443


class ForbiddenAddress(Exception):
    """The URL leads, or could lead, to an address that an untrusted party must not send us to."""


async def resolve(host: str) -> list[str]:
    """Every address of ``host``, from the system's resolver. Raises httpx.ConnectError where it does not answer."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, _PUBLIC_PORT, type=socket.SOCK_STREAM)
    except OSError as error:
        if error.errno == socket.EAI_AGAIN:
            raise httpx.ConnectError(f"{host!r} cannot be looked up now") from error
        raise ForbiddenAddress(f"{host!r} has no address: {error}") from error
    return [str(entry[4][0]) for entry in found]


def is_public(address: str) -> bool:
    """Whether the address belongs to the public Internet: neither private, local, reserved, multicast nor mapped."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        embedded = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo or (None, None))[1]
        if embedded is not None or parsed in ipaddress.ip_network("64:ff9b::/96"):
            return False
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


class PublicFetcher:
    """Opens https addresses of the public Internet. ``http`` must not follow redirects nor use a proxy."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        resolver: Resolver = resolve,
        permitted: Callable[[str], bool] = is_public,
        port: int = _PUBLIC_PORT,
    ) -> None:
        assert not http.follow_redirects, "a redirect would go past the checks"
        self._http = http
        self._resolver = resolver
        self._permitted = permitted
        self._port = port

    @asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[httpx.Response]:
        """The answer of a GET, its body unread. Raises ForbiddenAddress, or httpx.HTTPError where it may work later."""
        try:
            target, host = await self._checked(url)
            request = self._http.build_request("GET", target, headers={"host": host}, extensions={"sni_hostname": host})
        except (ValueError, httpx.InvalidURL) as error:
            raise ForbiddenAddress(f"this is no address: {error!r}") from error
        response = await self._http.send(request, stream=True)
        try:
            if response.is_server_error or response.status_code in (408, 429):
                response.raise_for_status()
            if response.status_code != 200:
                raise ForbiddenAddress(f"{host!r} answered {response.status_code}")
            yield response
        finally:
            await response.aclose()

    async def _checked(self, url: str) -> tuple[httpx.URL, str]:
        parts = urlsplit(url)
        host = parts.hostname
        if parts.scheme != "https" or not host:
            raise ForbiddenAddress("only https addresses are fetched")
        if parts.username is not None or (parts.port or _PUBLIC_PORT) != self._port:
            raise ForbiddenAddress("an address with credentials or a port of its own is not fetched")
        addresses = await self._resolver(host)
        if not addresses or not all(self._permitted(address) for address in addresses):
            raise ForbiddenAddress(f"{host!r} is not on the public Internet")
        address = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
        query = f"?{parts.query}" if parts.query else ""
        return httpx.URL(f"https://{address}:{self._port}{parts.path or '/'}{query}"), host
