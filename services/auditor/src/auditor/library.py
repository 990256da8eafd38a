"""Reading the library with a token that may only read: objects whole, listings, and links for an operator."""

import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote_plus
from xml.etree import ElementTree

import httpx

from auditor.errors import LibraryUnavailable
from auditor.metrics import LIBRARY_BYTES
from auditor.pace import Pace
from auditor.recorded_files import FoundFile, ListedObject, ListedPage
from auditor.settings import CommandSettings, Settings
from service_runtime.bounded_http import AnswerRefused, bounded_client
from service_runtime.presigned_urls import PresignedUrls

LINK_VALIDITY: Final = timedelta(minutes=10)
KEYS_PER_PAGE: Final = 1000
"""The most that S3 lists at once."""
_CALL_VALIDITY: Final = timedelta(minutes=5)
_TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
_LARGEST_PAGE_BYTES: Final = 8 * 1024**2
"""A thousand keys of the longest kind, each encoded, with all that is said of them."""
_LARGEST_FILE_BYTES: Final = 5 * 1024**3
"""The most that one PUT writes, ours or a stranger's."""


@dataclass(frozen=True, slots=True, repr=False)
class LibraryAddress:
    """Where the library is, and the token that reads it. Links are made for ``public_endpoint_url``."""

    endpoint_url: str
    public_endpoint_url: str
    region: str
    access_key_id: str
    secret_access_key: str
    bucket: str

    @classmethod
    def of(cls, settings: Settings | CommandSettings) -> "LibraryAddress | None":
        """As the settings say; None if they do not, which those of a service always do."""
        endpoint_url, key, secret = settings.s3_endpoint_url, settings.s3_access_key_id, settings.s3_secret_access_key
        if endpoint_url is None or key is None or secret is None:
            return None
        return cls(
            endpoint_url=endpoint_url,
            public_endpoint_url=settings.s3_public_endpoint_url or endpoint_url,
            region=settings.s3_region,
            access_key_id=key.get_secret_value(),
            secret_access_key=secret.get_secret_value(),
            bucket=settings.s3_library_bucket,
        )

    def signer(self, endpoint_url: str, now: Callable[[], float]) -> PresignedUrls:
        """Signs requests to this endpoint."""
        return PresignedUrls(endpoint_url, self.region, self.access_key_id, self.secret_access_key, now)


class Library:
    """Connects when it is first used. Every method raises LibraryUnavailable if the store does not answer as it must.

    ``now`` is the time that requests are signed with, in seconds since 1970.
    """

    def __init__(self, address: LibraryAddress, pace: Pace, now: Callable[[], float] = time.time) -> None:
        self._bucket = address.bucket
        self._pace = pace
        self._signer = address.signer(address.endpoint_url, now)
        self._public_signer = address.signer(address.public_endpoint_url, now)
        self._pages = bounded_client(_LARGEST_PAGE_BYTES, timeout=_TIMEOUT)
        self._files = bounded_client(_LARGEST_FILE_BYTES, timeout=_TIMEOUT)

    async def close(self) -> None:
        """Close every connection."""
        await self._pages.aclose()
        await self._files.aclose()

    def link(self, object_key: str) -> str:
        """An address at which anybody reads this object for ten minutes."""
        return self._public_signer.get(self._bucket, object_key, LINK_VALIDITY)

    async def read(self, object_key: str, expected_bytes: int | None) -> FoundFile | None:
        """Read an object whole and measure it; None if there is none. One of another size is not read."""
        await self._pace.spend(objects=1)
        try:
            async with self._get(object_key) as response:
                if response is None:
                    return None
                length = int(response.headers.get("content-length", -1))
                own_sha256 = response.headers.get("x-amz-meta-sha256")
                if expected_bytes is not None and length not in (-1, expected_bytes):
                    return FoundFile(length, None, own_sha256)
                digest, size_bytes = hashlib.sha256(), 0
                async for chunk in response.aiter_raw():
                    digest.update(chunk)
                    size_bytes += len(chunk)
                    LIBRARY_BYTES.inc(len(chunk))
                    await self._pace.spend(size_bytes=len(chunk))
        except AnswerRefused:
            # Ours are never encoded, and S3 takes no larger ones.
            return FoundFile(expected_bytes or 0, None, None)
        return FoundFile(size_bytes, digest.hexdigest(), own_sha256)

    async def exists(self, object_key: str) -> bool:
        """Whether there is such an object."""
        await self._pace.spend(objects=1)
        try:
            async with self._get(object_key) as response:
                return response is not None
        except AnswerRefused:
            return True

    async def list_after(self, object_key: str) -> ListedPage:
        """The next objects by key, at most ``KEYS_PER_PAGE``; "" is before the first."""
        await self._pace.spend(objects=1)
        url = self._signer.list(self._bucket, _CALL_VALIDITY, start_after=object_key, max_keys=KEYS_PER_PAGE)
        try:
            response = await self._pages.get(url)
        except httpx.HTTPError as error:
            raise LibraryUnavailable(_reason(error)) from error
        if response.status_code != HTTPStatus.OK:
            raise LibraryUnavailable(f"listing: {response.status_code} {_code(response.content)}")
        return _listed(response.content)

    @asynccontextmanager
    async def _get(self, object_key: str) -> AsyncIterator[httpx.Response | None]:
        url = self._signer.get(self._bucket, object_key, _CALL_VALIDITY)
        try:
            async with self._files.stream("GET", url) as response:
                if response.status_code == HTTPStatus.OK:
                    yield response
                    return
                code = _code(await response.aread())
            # Not the status alone: a bucket that is not there answers 404, too, and is no loss of a file.
            if code != "NoSuchKey":
                raise LibraryUnavailable(f"reading: {response.status_code} {code}")
            yield None
        except AnswerRefused:
            raise
        except httpx.HTTPError as error:
            raise LibraryUnavailable(_reason(error)) from error


def _reason(error: httpx.HTTPError) -> str:
    """Not its text: that may have the signed address."""
    return type(error).__name__


def _elements(document: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(document)  # noqa: S314 - our own store's; expat bounds what entities become
    except ElementTree.ParseError as error:
        raise LibraryUnavailable("the answer is no XML") from error


def _code(document: bytes) -> str:
    return (_elements(document).findtext("Code") or "") if document else ""


def _listed(document: bytes) -> ListedPage:
    page = _elements(document)
    if not page.tag.endswith("ListBucketResult"):
        raise LibraryUnavailable(f"listing: {page.tag}")
    objects = [
        ListedObject(
            unquote_plus(one.findtext("{*}Key", "")),
            int(one.findtext("{*}Size", "0")),
            datetime.fromisoformat(one.findtext("{*}LastModified", "")),
        )
        for one in page.iterfind("{*}Contents")
    ]
    # A store may list fewer keys than it was asked for, and have more.
    return ListedPage(objects, is_last=not objects or page.findtext("{*}IsTruncated") != "true")
