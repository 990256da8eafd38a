"""Puts a file that a stock worker returned, in its report or at some address, where our own worker puts its files."""

import asyncio
import base64
import binascii
import hashlib
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from http import HTTPStatus
from typing import IO, Final

import httpx

from generation.domain.provider_reports import OutputReturned, OutputUploaded
from generation.domain.stock_answers import normal_base64
from generation.public_addresses import ForbiddenAddress, PublicFetcher
from service_runtime.presigned_urls import PresignedUrls

_CHUNK_BYTES: Final = 1024 * 1024
_PUT_VALIDITY: Final = timedelta(minutes=15)
LARGEST_BYTES: Final = 1024 * 1024 * 1024
"""No model's file is larger; each order has its own, lower limit."""
LONGEST_SECONDS: Final = 240.0
"""For one whole file, however slowly it trickles; ``loops.file_transfers`` keeps the lease on its body so long."""


class UnusableFile(Exception):
    """What was returned is no file that could be delivered; to try again would not change that."""


class FileUnreachable(Exception):
    """The file could not be fetched or transferred this time, and it may be the file's fault."""


class BucketUnavailable(Exception):
    """The bucket is away or overloaded. It says nothing about the file, which can be put there when it is back."""


class ReturnedFiles:
    """Puts one returned file into the bucket for incoming files, through a presigned address, size bounded."""

    def __init__(self, http: httpx.AsyncClient, fetcher: PublicFetcher, urls: PresignedUrls, bucket: str) -> None:
        self._http = http
        self._fetcher = fetcher
        self._urls = urls
        self._bucket = bucket

    async def store(self, returned: OutputReturned, object_key: str, max_size_bytes: int) -> OutputUploaded:
        """Put the file under ``object_key``. Raises UnusableFile, FileUnreachable or BucketUnavailable."""
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                return await self._store(returned, object_key, max_size_bytes)
        except TimeoutError as error:
            raise FileUnreachable(f"the file was not transferred within {LONGEST_SECONDS:g} s") from error

    async def _store(self, returned: OutputReturned, object_key: str, max_size_bytes: int) -> OutputUploaded:
        with tempfile.TemporaryFile() as spool:
            if returned.is_url:
                await self._fetch(returned.data, spool, max_size_bytes)
            else:
                await asyncio.to_thread(_decode, returned.data, spool, max_size_bytes)
            size_bytes, sha256 = await asyncio.to_thread(_measure, spool)
            await self._put(spool, object_key, size_bytes)
        return OutputUploaded(
            job_id=returned.job_id,
            size_bytes=size_bytes,
            sha256=sha256,
            content_type=None,
            report=None,
            use=returned.use,
        )

    async def _fetch(self, url: str, spool: IO[bytes], max_size_bytes: int) -> None:
        size = 0
        try:
            async with self._fetcher.open(url) as response:
                async for chunk in response.aiter_bytes(_CHUNK_BYTES):
                    size += len(chunk)
                    if size > max_size_bytes:
                        raise UnusableFile(f"the file is larger than {max_size_bytes} bytes")
                    await asyncio.to_thread(spool.write, chunk)
        except ForbiddenAddress as error:
            raise UnusableFile(str(error)) from error
        except httpx.HTTPError as error:
            raise FileUnreachable(f"the returned file cannot be fetched: {type(error).__name__}") from error

    async def _put(self, spool: IO[bytes], object_key: str, size_bytes: int) -> None:
        url = self._urls.put(self._bucket, object_key, _PUT_VALIDITY)
        try:
            answer = await self._http.put(url, content=_chunks(spool), headers={"content-length": str(size_bytes)})
            answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            is_away = error.response.is_server_error or status == HTTPStatus.TOO_MANY_REQUESTS
            raise (BucketUnavailable if is_away else FileUnreachable)(f"the bucket answered {status}") from error
        except httpx.HTTPError as error:
            raise BucketUnavailable(f"the bucket does not answer: {type(error).__name__}") from error


def _decode(data: str, spool: IO[bytes], max_size_bytes: int) -> None:
    """Base64, bare or as a data URI, perhaps wrapped or without padding."""
    try:
        content = base64.b64decode(normal_base64(data), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnusableFile("the returned file is no base64") from error
    if not 0 < len(content) <= max_size_bytes:
        raise UnusableFile(f"the file has {len(content)} bytes; 1 to {max_size_bytes} are allowed")
    spool.write(content)


def _measure(spool: IO[bytes]) -> tuple[int, str]:
    digest = hashlib.sha256()
    spool.seek(0)
    while chunk := spool.read(_CHUNK_BYTES):
        digest.update(chunk)
    size_bytes = spool.tell()
    spool.seek(0)
    return size_bytes, digest.hexdigest()


async def _chunks(spool: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(spool.read, _CHUNK_BYTES):
        yield chunk
