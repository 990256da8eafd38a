"""Looking at files: fetched, measured, decoded, and written to the library, outside of any transaction."""

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from contracts.generation import OutputReady, OutputSought
from contracts.object_keys import MAX_UPLOAD_BYTES, upload_key
from contracts.storage import AssetStored
from contracts.values import OutputClaim
from messaging.failpoints import failpoint
from messaging.ids import new_id
from storage.decoders import Decoders
from storage.decoding import Inspection
from storage.domain import (
    LARGEST_FRAME_PIXELS,
    LARGEST_PICTURE_PIXELS,
    Expectation,
    check_bytes,
    check_key,
    check_media,
    library_key,
    poster_key,
)
from storage.object_store import Fetched, ObjectStore
from storage.settings import Settings

First = TypeVar("First")
Second = TypeVar("Second")


@dataclass(frozen=True)
class VerifiedUpload:
    """A user's picture that a model can start from."""

    key: str
    fetched: Fetched
    inspection: Inspection


class Verifier:
    """Looks at one file at a time, which lies in ``workspace`` meanwhile; holds no state between them."""

    def __init__(self, store: ObjectStore, decoders: Decoders, workspace: Path, settings: Settings) -> None:
        self._store = store
        self._decoders = decoders
        self._workspace = workspace
        self._incoming = settings.s3_incoming_bucket
        self._uploads = settings.s3_uploads_bucket
        self._library = settings.s3_library_bucket

    async def store_output(self, asked: OutputReady | OutputSought, claim: OutputClaim) -> AssetStored:
        """Verify what an attempt uploaded and write it to the library, once. Raises ``Rejected``."""
        expected = Expectation(
            width_pixels=asked.expected_width_pixels,
            height_pixels=asked.expected_height_pixels,
            duration_ms=asked.expected_duration_ms,
        )
        with tempfile.NamedTemporaryFile(dir=self._workspace) as file:
            path = Path(file.name)
            check_key(asked.generation_id, claim.object_key)
            fetched = await self._store.fetch(self._incoming, claim.object_key, path, asked.max_size_bytes)
            check_bytes(claim, fetched.size_bytes, fetched.sha256)
            inspection = await self._decoders.inspect(path, asked.kind, LARGEST_FRAME_PIXELS)
            check_media(expected, inspection.media)
            key = library_key(asked.user_id, asked.generation_id, inspection.media.content_type)
            attempt = {"attempt-id": str(claim.attempt_id), "attempt-number": str(claim.attempt_number)}
            content_type = inspection.media.content_type
            failpoint("storage.before_put")
            found, poster = await _both(
                self._store.put_once(key, path, fetched.sha256, content_type, attempt),
                self._put_poster(asked, fetched, inspection),
            )
            failpoint("storage.after_put")
            if found is not None and found.sha256 != fetched.sha256:
                # Another attempt's file was verified and written first, and its worker may not have lived to say so:
                # the object that stands is the output, and what is recorded must describe it.
                fetched = await self._store.fetch(self._library, key, path, asked.max_size_bytes)
                inspection = await self._decoders.inspect(path, asked.kind, LARGEST_FRAME_PIXELS)
                poster = await self._put_poster(asked, fetched, inspection)
                attempt = found.metadata
        return AssetStored(
            asset_id=new_id(),
            generation_id=asked.generation_id,
            user_id=asked.user_id,
            attempt_id=UUID(attempt["attempt-id"]),
            attempt_number=int(attempt["attempt-number"]),
            object_key=key,
            poster_object_key=poster,
            size_bytes=fetched.size_bytes,
            sha256=fetched.sha256,
            media=inspection.media,
            stored_at=datetime.now(UTC),
        )

    async def look_at_upload(self, user_id: UUID, upload_id: UUID) -> VerifiedUpload:
        """Fetch and decode a user's picture. Raises ``Rejected``."""
        key = upload_key(user_id, upload_id)
        with tempfile.NamedTemporaryFile(dir=self._workspace) as file:
            path = Path(file.name)
            fetched = await self._store.fetch(self._uploads, key, path, MAX_UPLOAD_BYTES)
            inspection = await self._decoders.inspect(path, "image", LARGEST_PICTURE_PIXELS, is_input=True)
        return VerifiedUpload(key, fetched, inspection)

    async def _put_poster(self, asked: OutputReady | OutputSought, output: Fetched, inspection: Inspection) -> str:
        key = poster_key(asked.user_id, asked.generation_id, output.sha256)
        poster = inspection.poster
        await self._store.put_once(key, poster, sha256_of(poster).hexdigest(), "image/jpeg", {})
        return key


async def _both(first: Coroutine[Any, Any, First], second: Coroutine[Any, Any, Second]) -> tuple[First, Second]:
    """Two writes at the same time; when one fails, the other is ended before its file is removed."""
    try:
        async with asyncio.TaskGroup() as tasks:
            one, other = tasks.create_task(first), tasks.create_task(second)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return one.result(), other.result()
