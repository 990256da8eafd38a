"""Requests to one S3 endpoint, signed and sent directly.

A request through aioboto3 costs several times as much processor time, and its model of S3 takes 20 MB: that is loaded
for what is rare only (``storage.s3_client``).

A try that may succeed when it is repeated is repeated, ``MAX_TRIES`` in all: no connection, no answer, throttling
(429, 503 ``SlowDown``), and an error of the server's own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha256 as sha256_of
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from uuid import uuid4
from xml.etree import ElementTree

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from service_runtime.backoff import Backoff
from service_runtime.s3_signing import S3Signer
from storage.settings import Settings

MAX_TRIES: Final = 3
BACKOFF: Final = Backoff(first=timedelta(seconds=0.25), longest=timedelta(seconds=2), jitter=0.5)
CHUNK_BYTES: Final = 1024 * 1024
"""Files are read and sent in pieces of this size; one that is not larger is sent at once."""

_CONNECTIONS: Final = 32
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=30)
CONTINUE_SECONDS: Final = 30.0
"""The longest wait for a connection, and for the word that a file may be sent. aiohttp has no bound for the latter."""
_REPEATED: Final = frozenset({429, 500, 502, 503, 504})
_REPEATED_CODES: Final = frozenset({"RequestTimeout"})
"""The store waited for a body in vain, and says so with 400."""
_LARGEST_ERROR_BYTES: Final = 64 * 1024
_METADATA: Final = "x-amz-meta-"
_NO_BODY: Final = sha256_of(b"").hexdigest()


class S3Refused(Exception):
    """The store answered with an error. ``code`` is its name in S3, empty where the answer has none."""

    def __init__(self, operation: str, status: int, code: str) -> None:
        super().__init__(f"{operation}: {status} {code}")
        self.status = status
        self.code = code


FAILURES: Final = (S3Refused, aiohttp.ClientError, TimeoutError)
"""All that a request and the reading of its answer raise while the store or the network is in trouble."""


class S3Requests:
    """One pool of connections to one endpoint, path style, with one identity.

    A proxy is used as the environment of the process says (``HTTPS_PROXY``, ``NO_PROXY``). ``now`` is the time that
    requests are signed with, in seconds since 1970: the store refuses those of another quarter of an hour.
    """

    def __init__(self, settings: Settings, now: Callable[[], float]) -> None:
        self._now = now
        self._endpoint_url = settings.s3_endpoint_url
        self._signer = S3Signer(
            settings.s3_endpoint_url,
            settings.s3_region,
            settings.s3_access_key_id.get_secret_value(),
            settings.s3_secret_access_key.get_secret_value(),
        )
        self._session: aiohttp.ClientSession | None = None

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._session is not None

    async def open(self) -> None:
        """Make the pool. It connects when it is first used."""
        address = urlsplit(self._endpoint_url)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
            timeout=_TIMEOUT,
            cookie_jar=aiohttp.DummyCookieJar(),
            # An object that was uploaded compressed is measured as it is stored.
            auto_decompress=False,
            proxy=None if proxy_bypass(address.netloc) else getproxies().get(address.scheme),
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def send(
        self,
        operation: str,
        bucket: str,
        key: str,
        *,
        body: Path | bytes | None = None,
        sha256: str = _NO_BODY,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send ``GetObject``, ``HeadObject`` or ``PutObject``; gives the answer, with its body unread.

        ``sha256`` is that of ``body``, in hex; the store refuses another body. Raises ``S3Refused`` for an answer that
        is no success, and an error of aiohttp's or of the network's if there is no answer.
        """
        response = await self._answer(operation, bucket, key, _whole_if_small(body), sha256, headers or {})
        try:
            yield response
        finally:
            # A connection whose answer was not read to its end is closed.
            response.release()

    async def _answer(
        self, operation: str, bucket: str, key: str, body: Path | bytes | None, sha256: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        call, tries = uuid4(), 0
        while True:
            tries += 1
            try:
                return await self._try(operation, bucket, key, body, sha256, headers)
            except (aiohttp.ClientConnectionError, TimeoutError):
                if tries == MAX_TRIES:
                    raise
            except S3Refused as refusal:
                if tries == MAX_TRIES or not (refusal.status in _REPEATED or refusal.code in _REPEATED_CODES):
                    raise
            await asyncio.sleep(BACKOFF.seconds(tries, call))

    async def _try(
        self, operation: str, bucket: str, key: str, body: Path | bytes | None, sha256: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("open() was not called")
        method = operation.removesuffix("Object").upper()
        # Signed anew for each try: a signature is good for a quarter of an hour, and a body may take long.
        signed = self._signer.headers(method, bucket, key, headers, sha256, self._now())
        is_file = isinstance(body, Path)
        async with asyncio.timeout(CONTINUE_SECONDS if is_file else None) as wait:
            response = await self._session.request(
                method,
                URL(self._signer.url(bucket, key), encoded=True),
                # The encoding is not signed, because proxies change it. Without it aiohttp asks for a compressed
                # answer.
                headers=signed | {"Accept-Encoding": "identity"},
                data=_File(body, begins=lambda: wait.reschedule(None)) if isinstance(body, Path) else body,
                # What is refused, as the second write of a key, is refused before it is sent.
                expect100=is_file,
                allow_redirects=False,
            )
        if response.status < HTTPStatus.MULTIPLE_CHOICES:
            return response
        try:
            document = await _read(response, _LARGEST_ERROR_BYTES)
        finally:
            response.release()
        raise S3Refused(operation, response.status, _code_in(document))


async def _read(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """The body, which may come in pieces, or its beginning."""
    body = bytearray()
    while len(body) < most_bytes and (piece := await response.content.read(most_bytes - len(body))):
        body += piece
    return bytes(body)


def _whole_if_small(body: Path | bytes | None) -> Path | bytes | None:
    """A small file is sent as it is: to ask first whether it may be sent costs the store another answer."""
    return body.read_bytes() if isinstance(body, Path) and body.stat().st_size <= CHUNK_BYTES else body


def metadata_of(response: aiohttp.ClientResponse) -> dict[str, str]:
    """What was stored beside an object, by names in lower case."""
    values = ((name.lower(), value) for name, value in response.headers.items())
    return {name.removeprefix(_METADATA): value for name, value in values if name.startswith(_METADATA)}


def metadata_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    """How ``metadata`` is stored beside an object."""
    return {_METADATA + name: value for name, value in metadata.items()}


def _code_in(document: bytes) -> str:
    """The name of an error; empty in an answer to HEAD, which has no body, and in that of a proxy in between."""
    try:
        return ElementTree.fromstring(document).findtext("Code") or ""  # noqa: S314 - expat bounds what entities become
    except ElementTree.ParseError:
        return ""


class _File(aiohttp.Payload):
    """A file as a body. It is read anew for each write: aiohttp itself repeats one that met a closed connection."""

    _autoclose = True

    def __init__(self, path: Path, begins: Callable[[], None]) -> None:
        super().__init__(path)
        self._path = path
        self._begins = begins
        self._size = path.stat().st_size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text; for aiohttp's own use, which a file has none for."""
        return self._path.read_text(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the file. It was written or read just before, so its pieces are in memory."""
        self._begins()
        with self._path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                await writer.write(piece)
