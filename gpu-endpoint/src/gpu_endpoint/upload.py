"""Delivering the file with the one presigned PUT that the job brought."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import msgspec

from gpu_endpoint.failures import OutputTooLarge, UploadFailed
from gpu_endpoint.job import RequestedOutput

_CHUNK_BYTES: Final = 256 * 1024
_PAUSES_SECONDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Six tries in about a quarter of a minute, then another attempt of the whole job is the better way."""

_TRANSIENT: Final = frozenset({408, 425, 429})


class UploadedFile(msgspec.Struct, frozen=True, kw_only=True):
    """What was delivered. ``sha256`` (hex) is of the bytes as they were sent."""

    object_key: str
    size_bytes: int
    sha256: str
    content_type: str


class _TryAgain(Exception):
    pass


async def upload(http: httpx.AsyncClient, path: Path, output: RequestedOutput) -> UploadedFile:
    """Send the file, repeating after connection errors, 5xx, 408, 425 and 429.

    Raises OutputTooLarge, or UploadFailed if the store refuses it (at once) or stays unreachable.
    """
    size_bytes = (await asyncio.to_thread(path.stat)).st_size
    if size_bytes > output.max_size_bytes:
        raise OutputTooLarge(f"the file has {size_bytes} bytes, and {output.max_size_bytes} are allowed")
    for pause in (*_PAUSES_SECONDS, None):
        try:
            sha256 = await _put(http, path, size_bytes, output)
        except _TryAgain as reason:
            if pause is None:
                raise UploadFailed(f"after {len(_PAUSES_SECONDS) + 1} tries: {reason}") from reason
            await asyncio.sleep(pause)
        else:
            return UploadedFile(
                object_key=output.object_key, size_bytes=size_bytes, sha256=sha256, content_type=output.content_type
            )
    raise AssertionError("the last try returns or raises")


async def _put(http: httpx.AsyncClient, path: Path, size_bytes: int, output: RequestedOutput) -> str:
    digest = hashlib.sha256()

    async def body() -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                digest.update(chunk)
                yield chunk

    headers = {"content-type": output.content_type, "content-length": str(size_bytes)}
    try:
        answer = await http.put(output.put_url, content=body(), headers=headers)
    except httpx.TransportError as error:
        raise _TryAgain(type(error).__name__) from error
    if answer.is_success:
        return digest.hexdigest()
    if answer.is_server_error or answer.status_code in _TRANSIENT:
        raise _TryAgain(f"HTTP {answer.status_code}")
    raise UploadFailed(f"the store refused the file: HTTP {answer.status_code}")
