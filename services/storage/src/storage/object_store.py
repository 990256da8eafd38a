"""Access to the buckets: reads from `incoming` and `uploads`, writes to `library`, each object once, and deletes."""

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp

from service_runtime.tracing import step
from storage.errors import Rejected, StoreUnavailable
from storage.metrics import Operation, object_seconds
from storage.s3_requests import CHUNK_BYTES, FAILURES, S3Refused, S3Requests, metadata_headers, metadata_of
from storage.settings import Settings

_ABSENT_KEY: Final = ".readiness"
"""No object has this key: every key starts with an id."""


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """The measured size and checksum of an object that was copied to the local disk."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ExistingObject:
    """An object that was in the library before."""

    sha256: str
    metadata: dict[str, str]


class ObjectStore:
    """The three buckets, for the life of the service. ``now`` is the time that requests for files are signed with."""

    def __init__(self, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._requests = S3Requests(settings, now)
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Get ready. It connects when it is first used."""
        await self._requests.open()

    async def close(self) -> None:
        """Close the connections."""
        await self._requests.close()
        await self._stack.aclose()

    async def check(self) -> None:
        """A readiness check: the store answers, and the token may read every bucket. Raises ``StoreUnavailable``."""
        if not self._requests.is_open:
            raise StoreUnavailable("not connected yet")
        settings = self._settings
        for bucket in (settings.s3_incoming_bucket, settings.s3_uploads_bucket, settings.s3_library_bucket):
            try:
                await self._check_bucket(bucket)
            except StoreUnavailable as error:
                raise StoreUnavailable(f"bucket {bucket}: {error}") from error

    async def _check_bucket(self, bucket: str) -> None:
        with _store_errors():
            try:
                # Not HEAD: its answer does not tell a missing object, which is expected, from a missing bucket.
                async with self._requests.send("GetObject", bucket, _ABSENT_KEY):
                    pass
            except S3Refused as refusal:
                if refusal.code != "NoSuchKey":
                    raise

    async def fetch(self, bucket: str, key: str, path: Path, max_bytes: int) -> FetchedFile:
        """Stream an object to ``path``. Raises ``Rejected`` if it is absent or larger than ``max_bytes``."""
        with _measured("get"):
            try:
                async with self._requests.send("GetObject", bucket, key) as response:
                    return await _save(response, path, max_bytes)
            except S3Refused as refusal:
                # A missing bucket is our mistake, and no reason to reject a file.
                if refusal.code == "NoSuchKey":
                    raise Rejected("not_found", "no object under the reported key") from refusal
                raise

    async def put_once(
        self, key: str, body: Path | bytes, sha256: str, content_type: str, metadata: dict[str, str]
    ) -> ExistingObject | None:
        """Write a library object unless it exists. Returns None if this call wrote it, else the existing object.

        After a write whose response was lost, the existing object has the checksum of ``body``.
        """
        bucket = self._settings.s3_library_bucket
        headers = {
            "Content-Type": content_type,
            "If-None-Match": "*",
            "x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256)).decode(),
            **metadata_headers(metadata | {"sha256": sha256}),
        }
        with _measured("put"):
            try:
                async with self._requests.send("PutObject", bucket, key, body=body, sha256=sha256, headers=headers):
                    return None
            except S3Refused as refusal:
                if refusal.status not in (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED):
                    raise
            async with self._requests.send("HeadObject", bucket, key) as response:
                found = metadata_of(response)
        return ExistingObject(found.get("sha256", ""), found)

    async def delete_folder(self, folder: str) -> int:
        """Remove every library object whose key begins with ``folder``; returns how many there were.

        Raises ``StoreUnavailable``, also where a rule of the bucket refuses it.
        """
        # Users seldom delete: a process that deletes nothing never loads the client.
        from storage.s3_client import client_errors, open_client

        bucket, removed = self._settings.s3_library_bucket, 0
        with _measured("delete"), client_errors():
            async with self._opening:
                if self._client is None:
                    self._client = await self._stack.enter_async_context(open_client(self._settings))
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder)
            async for page in pages:
                for found in page.get("Contents", ()):
                    await self._client.delete_object(Bucket=bucket, Key=found["Key"])
                    removed += 1
        return removed


async def _save(response: aiohttp.ClientResponse, path: Path, max_bytes: int) -> FetchedFile:
    digest, size = hashlib.sha256(), 0
    # Absent where the store decompresses an object that was uploaded compressed.
    length = response.content_length
    with path.open("wb") as file:
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            size += len(chunk)
            if max(size, length or 0) > max_bytes:
                raise Rejected("size_mismatch", f"the file is larger than {max_bytes} bytes")
            digest.update(chunk)
            file.write(chunk)
    if length is not None and size != length:
        raise StoreUnavailable(f"the body ended after {size} of {length} bytes")
    return FetchedFile(size, digest.hexdigest())


@contextmanager
def _measured(operation: Operation) -> Iterator[None]:
    """Measure an operation, and turn every failure of the store or of the network to it into ``StoreUnavailable``."""
    began, outcome = time.perf_counter(), "ok"
    try:
        attributes = {"rpc.system.name": "aws-api", "peer.service": "object-store"}
        with step(f"s3 {operation}", attributes=attributes), _store_errors():
            yield
    except StoreUnavailable:
        outcome = "unavailable"
        raise
    except Rejected:
        outcome = "rejected"
        raise
    finally:
        object_seconds.labels(operation, outcome).observe(time.perf_counter() - began)


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except S3Refused as refusal:
        raise StoreUnavailable(str(refusal)) from refusal
    except FAILURES as error:
        # Not its text: that has the address.
        raise StoreUnavailable(type(error).__name__) from error
