"""The buckets, as storage may use them: read `incoming` and `uploads`, write `library` once."""

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aioboto3
import aiohttp
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from storage.errors import Rejected, StoreUnavailable
from storage.settings import Settings

CHUNK_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class Fetched:
    """A file that was copied here, with what was measured on the way."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Found:
    """An object that was in the library already."""

    sha256: str
    metadata: dict[str, str]


class ObjectStore:
    """One S3 client for the life of the service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def open(self) -> None:
        """Make the client; it connects when first used."""
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
        """Let the connections go."""
        await self._stack.aclose()

    async def fetch(self, bucket: str, key: str, path: Path, largest_bytes: int) -> Fetched:
        """Stream an object to ``path``. Raises ``Rejected`` if it is absent or larger than ``largest_bytes``."""
        digest, size = hashlib.sha256(), 0
        async with _translated():
            try:
                answer = await self._client.get_object(Bucket=bucket, Key=key)
            except ClientError as error:
                # A bucket that is not there is our mistake, and no reason to reject anything.
                if error.response.get("Error", {}).get("Code") == "NoSuchKey":
                    raise Rejected("not_found", "no object under the stated key") from error
                raise
            # Not stated where the store unpacks what was uploaded as compressed.
            stated = answer.get("ContentLength")
            async with answer["Body"] as body:
                with path.open("wb") as file:
                    async for chunk in answer["Body"].iter_chunks(CHUNK_BYTES):
                        size += len(chunk)
                        if max(size, stated or 0) > largest_bytes:
                            body.close()
                            raise Rejected("size_mismatch", f"the file is larger than {largest_bytes} bytes")
                        digest.update(chunk)
                        file.write(chunk)
            if stated is not None and size != stated:
                raise StoreUnavailable(f"the body ended after {size} of {stated} bytes")
        return Fetched(size, digest.hexdigest())

    async def put_once(
        self, key: str, body: Path | bytes, sha256: str, content_type: str, metadata: dict[str, str]
    ) -> Found | None:
        """Write a library object unless it exists; None if this call wrote it, else what was there before.

        A write whose answer was lost looks like one that was there before, with the same checksum: both are the same.
        """
        async with _translated():
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
        return Found(head["Metadata"].get("sha256", ""), head["Metadata"])


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Whatever the store or the way to it did wrong is one failure to the rest of the service."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise StoreUnavailable(f"{error.operation_name}: {_status(error)} {code}") from error
    except (BotoCoreError, aiohttp.ClientError, TimeoutError) as error:
        raise StoreUnavailable(type(error).__name__) from error
