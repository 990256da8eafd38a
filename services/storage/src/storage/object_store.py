"""Access to the buckets: reads from `incoming` and `uploads`, writes to `library`, each object once, and deletes."""

import base64
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aioboto3
import aiohttp
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from service_runtime.tracing import step
from storage.errors import Rejected, StoreUnavailable
from storage.metrics import Operation, object_seconds
from storage.settings import Settings

CHUNK_BYTES: Final = 1024 * 1024
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
    """One S3 client for the life of the service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def open(self) -> None:
        """Create the client. It connects when it is first used."""
        settings = self._settings
        session = aioboto3.Session(
            aws_access_key_id=settings.s3_access_key_id.get_secret_value(),
            aws_secret_access_key=settings.s3_secret_access_key.get_secret_value(),
            region_name=settings.s3_region,
        )
        config = Config(
            signature_version="s3v4",
            # R2 refuses boto's default checksum trailers; the explicit ChecksumSHA256 below works.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=5,
            read_timeout=30,
            max_pool_connections=32,
            retries={"mode": "standard", "max_attempts": 2},
            s3={"addressing_style": "path"},
        )
        context = session.client("s3", endpoint_url=settings.s3_endpoint_url, config=config)
        self._client = await self._stack.enter_async_context(context)

    async def close(self) -> None:
        """Close the connections."""
        await self._stack.aclose()

    async def check(self) -> None:
        """A readiness check: the store answers, and the token may read every bucket. Raises ``StoreUnavailable``."""
        if self._client is None:
            raise StoreUnavailable("not connected yet")
        settings = self._settings
        for bucket in (settings.s3_incoming_bucket, settings.s3_uploads_bucket, settings.s3_library_bucket):
            try:
                await self._check_bucket(bucket)
            except StoreUnavailable as error:
                raise StoreUnavailable(f"bucket {bucket}: {error}") from error

    async def _check_bucket(self, bucket: str) -> None:
        async with _store_errors():
            try:
                # Not HEAD: its answer does not tell a missing object, which is expected, from a missing bucket.
                response = await self._client.get_object(Bucket=bucket, Key=_ABSENT_KEY)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != "NoSuchKey":
                    raise
            else:
                response["Body"].close()

    async def fetch(self, bucket: str, key: str, path: Path, max_bytes: int) -> FetchedFile:
        """Stream an object to ``path``. Raises ``Rejected`` if it is absent or larger than ``max_bytes``."""
        digest, size = hashlib.sha256(), 0
        async with _measured("get"):
            try:
                response = await self._client.get_object(Bucket=bucket, Key=key)
            except ClientError as error:
                # A missing bucket is our mistake, and no reason to reject a file.
                if error.response.get("Error", {}).get("Code") == "NoSuchKey":
                    raise Rejected("not_found", "no object under the reported key") from error
                raise
            # Absent where the store decompresses an object that was uploaded compressed.
            length = response.get("ContentLength")
            async with response["Body"] as body:
                with path.open("wb") as file:
                    async for chunk in response["Body"].iter_chunks(CHUNK_BYTES):
                        size += len(chunk)
                        if max(size, length or 0) > max_bytes:
                            body.close()
                            raise Rejected("size_mismatch", f"the file is larger than {max_bytes} bytes")
                        digest.update(chunk)
                        file.write(chunk)
            if length is not None and size != length:
                raise StoreUnavailable(f"the body ended after {size} of {length} bytes")
        return FetchedFile(size, digest.hexdigest())

    async def put_once(
        self, key: str, body: Path | bytes, sha256: str, content_type: str, metadata: dict[str, str]
    ) -> ExistingObject | None:
        """Write a library object unless it exists. Returns None if this call wrote it, else the existing object.

        After a write whose response was lost, the existing object has the checksum of ``body``.
        """
        async with _measured("put"):
            data = body.open("rb") if isinstance(body, Path) else body
            try:
                await self._client.put_object(
                    Bucket=self._settings.s3_library_bucket,
                    Key=key,
                    Body=data,
                    ContentType=content_type,
                    ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(),
                    IfNoneMatch="*",
                    Metadata=metadata | {"sha256": sha256},
                )
            except ClientError as error:
                if _status(error) not in (409, 412):
                    raise
            else:
                return None
            finally:
                if not isinstance(data, bytes):
                    data.close()
            head = await self._client.head_object(Bucket=self._settings.s3_library_bucket, Key=key)
        return ExistingObject(head["Metadata"].get("sha256", ""), head["Metadata"])

    async def delete_folder(self, folder: str) -> int:
        """Remove every library object whose key begins with ``folder``; returns how many there were.

        Raises ``StoreUnavailable``, also where a rule of the bucket refuses it.
        """
        bucket, removed = self._settings.s3_library_bucket, 0
        async with _measured("delete"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder)
            async for page in pages:
                for found in page.get("Contents", ()):
                    await self._client.delete_object(Bucket=bucket, Key=found["Key"])
                    removed += 1
        return removed


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@asynccontextmanager
async def _measured(operation: Operation) -> AsyncIterator[None]:
    """Measure an operation, and turn every failure of the store or of the network to it into ``StoreUnavailable``."""
    began, outcome = time.perf_counter(), "ok"
    try:
        with step(f"s3 {operation}", attributes={"rpc.system.name": "aws-api", "peer.service": "object-store"}):
            async with _store_errors():
                yield
    except StoreUnavailable:
        outcome = "unavailable"
        raise
    except Rejected:
        outcome = "rejected"
        raise
    finally:
        object_seconds.labels(operation, outcome).observe(time.perf_counter() - began)


@asynccontextmanager
async def _store_errors() -> AsyncIterator[None]:
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise StoreUnavailable(f"{error.operation_name}: {_status(error)} {code}") from error
    except (BotoCoreError, aiohttp.ClientError, TimeoutError) as error:
        raise StoreUnavailable(type(error).__name__) from error
