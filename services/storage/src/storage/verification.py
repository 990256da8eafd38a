"""Verifies files: fetches, measures and decodes them, marks outputs and writes them to the library.

No transaction is open.
"""

import asyncio
import zlib
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import file_digest
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from uuid import UUID

import structlog

from contracts.generation import OutputReady, OutputSought
from contracts.object_keys import EXTENSIONS, MAX_UPLOAD_BYTES, poster_key, upload_key
from contracts.storage import AssetStored
from contracts.values import Kind, ReportedOutput
from messaging.failpoints import failpoint
from messaging.ids import new_id
from storage.decoders import Decoders
from storage.decoding import Inspection
from storage.domain import (
    MAX_OUTPUT_PIXELS,
    MAX_UPLOAD_PIXELS,
    ExpectedMedia,
    VerifiedUpload,
    check_clip,
    check_format,
    check_media,
    check_object_key,
    check_size_and_checksum,
    library_key,
)
from storage.errors import MarkingImpossible, Rejected, SignerUnavailable, Unmarkable
from storage.object_store import FetchedFile, ObjectStore
from storage.s3_requests import CHUNK_BYTES
from storage.settings import Settings
from storage.workspace import temporary_path

MAX_MARK_BYTES: Final = 1024 * 1024
"""The mark makes a file larger than the worker's, by about 13 kB and a little for each 4 MiB of a long clip."""

First = TypeVar("First")
Second = TypeVar("Second")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """The attempt that made an output, as it is noted in the metadata of the library object."""

    attempt_id: UUID
    attempt_number: int

    def as_metadata(self) -> dict[str, str]:
        return {"attempt-id": str(self.attempt_id), "attempt-number": str(self.attempt_number)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        return cls(UUID(metadata["attempt-id"]), int(metadata["attempt-number"]))


class Verifier:
    """Verifies one file per call. The file lies in ``workspace`` meanwhile. Keeps no state between calls."""

    def __init__(self, store: ObjectStore, decoders: Decoders, workspace: Path, settings: Settings) -> None:
        self._store = store
        self._decoders = decoders
        self._workspace = workspace
        self._incoming = settings.s3_incoming_bucket
        self._uploads = settings.s3_uploads_bucket
        self._library = settings.s3_library_bucket

    async def store_output(self, request: OutputReady | OutputSought, reported: ReportedOutput) -> AssetStored:
        """Verify the file of an attempt, mark it and write it to the library, once. Raises ``Rejected``.

        Size and checksum are those of the marked file from then on.
        """
        expected = ExpectedMedia(
            width_pixels=request.expected_width_pixels,
            height_pixels=request.expected_height_pixels,
            duration_ms=request.expected_duration_ms,
            extension=request.expected_extension,
        )
        with ExitStack() as files:
            path = files.enter_context(temporary_path(self._workspace))
            check_object_key(request.generation_id, reported.object_key)
            fetched = await self._store.fetch(self._incoming, reported.object_key, path, request.max_size_bytes)
            check_size_and_checksum(reported, fetched.size_bytes, fetched.sha256)
            body: Path | bytes = path
            if self._decoders.mark_outputs:
                is_small = fetched.size_bytes <= CHUNK_BYTES
                body, inspection = await self._mark(path, request.kind, files)
                if is_small:
                    # To hand it to a thread takes longer than to read it.
                    body = body.read_bytes()
                    fetched = FetchedFile(len(body), sha256_of(body).hexdigest())
                else:
                    fetched = await asyncio.to_thread(_measured, body)
            else:
                inspection = await self._decoders.inspect(path, request.kind, MAX_OUTPUT_PIXELS)
            check_format(expected, inspection)
            check_media(expected, inspection.media)
            content_type = inspection.media.content_type
            extension = request.expected_extension or EXTENSIONS[content_type]
            key = library_key(request.user_id, request.generation_id, extension)
            attempt = _Attempt(reported.attempt_id, reported.attempt_number)
            failpoint("storage.before_put")
            put = self._store.put_once(key, body, fetched.sha256, content_type, attempt.as_metadata())
            if inspection.poster:
                existing, poster = await _both(put, self._put_poster(request, key, fetched, inspection))
            else:
                existing, poster = await put, key
            failpoint("storage.after_put")
            if existing is not None and existing.sha256 != fetched.sha256:
                # The file of another attempt was verified and written first, and perhaps never recorded. The object
                # in the library is the output, so the record must describe that object. It is also the file of this
                # attempt with another mark: no file is marked twice alike.
                fetched = await self._store.fetch(self._library, key, path, request.max_size_bytes + MAX_MARK_BYTES)
                if self._decoders.mark_outputs:
                    inspection = await self._decoders.mark(path, None, request.kind, MAX_OUTPUT_PIXELS)
                else:
                    inspection = await self._decoders.inspect(path, request.kind, MAX_OUTPUT_PIXELS)
                poster = await self._put_poster(request, key, fetched, inspection)
                attempt = _Attempt.from_metadata(existing.metadata)
        return AssetStored(
            asset_id=new_id(),
            generation_id=request.generation_id,
            user_id=request.user_id,
            attempt_id=attempt.attempt_id,
            attempt_number=attempt.attempt_number,
            object_key=key,
            poster_object_key=poster,
            size_bytes=fetched.size_bytes,
            sha256=fetched.sha256,
            media=inspection.media,
            stored_at=datetime.now(UTC),
        )

    async def _mark(self, path: Path, kind: Kind, files: ExitStack) -> tuple[Path, Inspection]:
        """The marked file. What cannot be marked is not delivered. Raises ``Rejected``."""
        marked = files.enter_context(temporary_path(self._workspace))
        try:
            return marked, await self._decoders.mark(path, marked, kind, MAX_OUTPUT_PIXELS)
        except Unmarkable as error:
            raise Rejected("wrong_format", f"the file cannot be marked as made by AI: {error}") from error

    async def verify_upload(
        self, user_id: UUID, upload_id: UUID, kind: Kind, clip_duration_ms: int | None
    ) -> VerifiedUpload:
        """Fetch and decode a user's picture, or a clip of which so much is ordered. Raises ``Rejected``."""
        key = upload_key(user_id, upload_id)
        with temporary_path(self._workspace) as path:
            fetched = await self._store.fetch(self._uploads, key, path, MAX_UPLOAD_BYTES)
            inspection = await self._decoders.inspect(path, kind, MAX_UPLOAD_PIXELS, is_input=True)
        if kind == "video":
            check_clip(clip_duration_ms, inspection)
        return VerifiedUpload(
            upload_id=upload_id,
            user_id=user_id,
            object_key=key,
            size_bytes=fetched.size_bytes,
            sha256=fetched.sha256,
            media=inspection.media,
        )

    async def _put_poster(
        self, request: OutputReady | OutputSought, output_key: str, output: FetchedFile, inspection: Inspection
    ) -> str:
        """The key of the poster. A small picture, which came without one, is its own."""
        poster = inspection.poster
        if not poster:
            return output_key
        key = poster_key(request.user_id, request.generation_id, output.sha256)
        await self._store.put_once(key, poster, sha256_of(poster).hexdigest(), "image/jpeg", {})
        return key


async def check_signer(decoders: Decoders, workspace: Path) -> None:
    """Mark a sample. Raises ``MarkingImpossible`` if the key and its certificates make no valid mark.

    A signer that cannot be reached is no reason not to start: files wait for it.
    """
    with temporary_path(workspace) as sample, temporary_path(workspace) as marked:
        await asyncio.to_thread(sample.write_bytes, _gray_picture(16))
        try:
            await decoders.mark(sample, marked, "image", MAX_OUTPUT_PIXELS)
        except SignerUnavailable as error:
            log.warning("marking_unavailable", reason=str(error))
        except Unmarkable as error:
            raise MarkingImpossible(str(error)) from error


def _gray_picture(side: int) -> bytes:
    """A small PNG."""
    header = side.to_bytes(4) * 2 + b"\x08\0\0\0\0"
    lines = zlib.compress((b"\0" + b"\x80" * side) * side)
    chunks = ((b"IHDR", header), (b"IDAT", lines), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4) for name, data in chunks
    )


def _measured(path: Path) -> FetchedFile:
    with path.open("rb") as file:
        digest = file_digest(file, "sha256")
        return FetchedFile(file.tell(), digest.hexdigest())


async def _both(first: Coroutine[Any, Any, First], second: Coroutine[Any, Any, Second]) -> tuple[First, Second]:
    """Run two writes at the same time. If one fails, the other ends before this raises, and its file is removed."""
    try:
        async with asyncio.TaskGroup() as tasks:
            one, other = tasks.create_task(first), tasks.create_task(second)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return one.result(), other.result()
