"""httpx on aiohttp's connections: a call costs the process less than half of what it costs on httpx's own.

Which exception is raised decides whether an order is submitted again (``runpod.answers``). So only what is raised
before the first byte could leave becomes ``ConnectError`` or ``ConnectTimeout``. Whatever else goes wrong, the provider
may have the request.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
from yarl import URL

_KEEP_ALIVE_SECONDS: Final = 4.0
"""Less than the 5 s after which many servers close an idle connection: a request must not meet that moment."""
_NOT_SENT: Final = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.InvalidURL)


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends a request once, over one of at most ``connections`` connections, and by the environment's proxy if any.

    Connections belong to the loop that sends the first request.
    """

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises ConnectTimeout, ConnectError, ReadTimeout or ReadError."""
        if self._session is None:
            self._session = self._open()
        timeout = request.extensions["timeout"]
        body = await request.aread()
        with _errors_of(request):
            answer = await self._session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=request.headers.multi_items(),
                data=body or None,
                allow_redirects=False,
                proxy=_proxy(request.url.scheme, request.url.host),
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=timeout["pool"], sock_connect=timeout["connect"], sock_read=timeout["read"]
                ),
            )
        return httpx.Response(
            answer.status, headers=answer.raw_headers, stream=_AnswerStream(answer, request), request=request
        )

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=self._connections, keepalive_timeout=_KEEP_ALIVE_SECONDS, ssl=httpx.create_ssl_context()
        )
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)


@lru_cache(maxsize=16)
def _proxy(scheme: str, host: str) -> str | None:
    """What HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say. A process does not change its environment."""
    proxies = getproxies()
    return None if proxy_bypass(host) else proxies.get(scheme, proxies.get("all"))


class _AnswerStream(httpx.AsyncByteStream):
    def __init__(self, answer: aiohttp.ClientResponse, request: httpx.Request) -> None:
        self._answer = answer
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _errors_of(self._request):
            async for chunk in self._answer.content.iter_any():
                yield chunk

    async def aclose(self) -> None:
        # What was not read to its end is not read on: the connection is closed, not used again.
        self._answer.close()


@contextmanager
def _errors_of(request: httpx.Request) -> Iterator[None]:
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx.ConnectTimeout(str(error), request=request) from error
    except _NOT_SENT as error:
        raise httpx.ConnectError(str(error), request=request) from error
    except aiohttp.ServerTimeoutError as error:
        raise httpx.ReadTimeout(str(error), request=request) from error
    except (aiohttp.ClientError, OSError) as error:
        raise httpx.ReadError(f"{type(error).__name__}: {error}", request=request) from error
