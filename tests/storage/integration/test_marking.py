"""Every delivered file says that AI made it, and nothing is delivered that does not, unless that is configured."""

import hashlib
import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prometheus_client import REGISTRY

from contracts.object_keys import library_folder
from contracts.storage import DIGITAL_SOURCE_TYPE, AssetRejected, AssetStored
from contracts.values import Kind
from local_platform.marking_credentials import make_marking_credentials
from local_platform.marks import Mark, mark_of
from local_platform.servers import S3Server
from storage.decoders import Decoders
from storage.decoding import DecodeResult
from storage.errors import DecoderFailed, MarkingImpossible, SignerUnavailable
from storage.signing import Signer, signer_of
from storage.verification import Verifier, check_signer
from tests.storage.integration.conftest import CREDENTIALS, StorageHarness, output_ready, settings_for, worker_for
from tests.support.media import clip, coded_clip, picture

GOOD = Mark("Trusted", "c2pa.created", DIGITAL_SOURCE_TYPE)


def picture_as(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture())).convert("RGB").save(buffer, form)
    return buffer.getvalue()


PICTURE: dict[str, Any] = {"kind": "image", "expected_duration_ms": None}
DELIVERED: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "a clip": ("video/mp4", clip(), {}),
    "a small PNG": ("image/png", picture(), PICTURE),
    "a PNG": ("image/png", picture(640, 480), PICTURE | {"expected_width_pixels": 640, "expected_height_pixels": 480}),
    "a small JPEG": ("image/jpeg", picture_as("JPEG"), PICTURE),
    "a small WebP": ("image/webp", picture_as("WEBP"), PICTURE),
}


@pytest.mark.parametrize("file", DELIVERED)
async def test_a_delivered_file_and_its_poster_are_marked(storage: StorageHarness, file: str) -> None:
    content_type, body, ordered = DELIVERED[file]
    generation_id, reported = storage.upload_output(body)
    await storage.verify(output_ready(generation_id, reported, **ordered))
    stored = await storage.only(AssetStored)
    delivered = storage.library(stored.object_key)
    assert stored.media.content_type == content_type
    assert mark_of(delivered, content_type, CREDENTIALS.root) == GOOD
    poster_type = content_type if file.startswith("a small") else "image/jpeg"
    assert mark_of(storage.library(stored.poster_object_key), poster_type, CREDENTIALS.root) == GOOD
    assert (stored.size_bytes, stored.sha256) == (len(delivered), hashlib.sha256(delivered).hexdigest())


async def test_a_file_written_by_a_killed_try_is_recorded_and_no_other(storage: StorageHarness) -> None:
    generation_id, reported = storage.upload_output(clip())
    request = output_ready(generation_id, reported)
    first = await storage.verifier.store_output(request, reported)
    second = await storage.verifier.store_output(request, reported)
    assert (second.sha256, second.size_bytes) == (first.sha256, first.size_bytes)
    assert second.poster_object_key == first.poster_object_key
    assert hashlib.sha256(storage.library(first.object_key)).hexdigest() == first.sha256


async def test_pictures_of_two_types_from_two_attempts_are_one_file(storage: StorageHarness) -> None:
    generation_id, first = storage.upload_output(picture_as("WEBP"))
    _, second = storage.upload_output(picture(), generation_id, attempt_number=2)
    request = output_ready(generation_id, first, expected_extension="png", **PICTURE)
    for reported in (first, second):
        # As if the first attempt were recorded only after the second one had written its file, too.
        stored = await storage.verifier.store_output(request, reported)
        assert (stored.attempt_number, stored.media.content_type) == (1, "image/webp")
    listed = storage.s3.client("storage").list_objects_v2(
        Bucket="library", Prefix=library_folder(request.user_id, generation_id)
    )
    assert [one["Key"] for one in listed["Contents"]] == [stored.object_key]
    assert storage.s3.client("gateway").head_object(Bucket="library", Key=stored.object_key)["ContentType"] == (
        "image/webp"
    )


async def test_a_good_file_that_cannot_be_marked_is_not_delivered(storage: StorageHarness) -> None:
    body = coded_clip("webm", "libvpx-vp9", "yuv420p")
    generation_id, reported = storage.upload_output(body)
    size = {"expected_width_pixels": 64, "expected_height_pixels": 64, "expected_duration_ms": 500}
    await storage.verify(output_ready(generation_id, reported, expected_extension="webm", **size))
    rejected = await storage.only(AssetRejected)
    assert rejected.code == "wrong_format"
    assert "webm has no place for a manifest" in rejected.detail
    assert await storage.assets() == []


class Unavailable:
    """A key management service that does not answer."""

    async def sign(self, data: bytes) -> bytes:
        raise SignerUnavailable("no answer")


@pytest.mark.parametrize("why", ["no key", "expired"])
async def test_files_wait_while_nothing_can_be_signed(storage: StorageHarness, why: str) -> None:
    before = REGISTRY.get_sample_value("storage_markings_total", {"outcome": "signer_unavailable"}) or 0
    good = storage.decoders._signer
    assert good is not None
    broken = replace(good, key=Unavailable()) if why == "no key" else replace(good, expires_at=datetime.now(UTC))
    generation_id, reported = storage.upload_output(clip())
    storage.decoders._signer = broken
    await storage.verify(output_ready(generation_id, reported))
    assert await storage.published() == []
    assert REGISTRY.get_sample_value("storage_markings_total", {"outcome": "signer_unavailable"}) == before + 1
    storage.decoders._signer = good
    await storage.make_due()
    await storage.process_all()
    assert await storage.only(AssetStored)


@pytest.mark.parametrize("kind", ["video", "image"])
async def test_a_full_disk_says_nothing_about_a_file(storage: StorageHarness, tmp_path: Path, kind: Kind) -> None:
    path, marked = tmp_path / "file", tmp_path / "marked"
    path.write_bytes(clip() if kind == "video" else picture())
    with pytest.raises(OSError, match="No space left"):
        await storage.decoders.mark(path, Path("/dev/full"), kind, 10**6)
    assert (await storage.decoders.mark(path, marked, kind, 10**6)).media.width_pixels


async def test_with_marking_off_a_file_is_delivered_as_it_is(storage: StorageHarness, tmp_path: Path) -> None:
    decoders = Decoders(1)
    settings = settings_for(storage.s3)
    worker = worker_for(storage.transactions, Verifier(storage.store, decoders, tmp_path, settings))
    body = clip()
    generation_id, reported = storage.upload_output(body)
    await storage.receive(output_ready(generation_id, reported))
    try:
        while await worker.fill():
            await worker.idle()
        stored = await storage.only(AssetStored)
        assert storage.library(stored.object_key) == body
        assert mark_of(body, "video/mp4") is None
    finally:
        await worker.drain()
        await decoders.stop()


async def test_certificates_that_do_not_fit_are_found_at_the_start(s3_server: S3Server, tmp_path: Path) -> None:
    """A certificate whose key has no part in it makes marks that no reader accepts."""
    signer = signer_of(settings_for(s3_server))
    assert signer is not None
    other = Signer(signer.key, make_marking_credentials().certificates, signer.expires_at)
    decoders = Decoders(1, signer=other)
    try:
        with pytest.raises(MarkingImpossible):
            await check_signer(decoders, tmp_path)
    finally:
        await decoders.stop()


async def test_a_decoder_cannot_have_anything_signed_that_it_was_not_asked_for(
    storage: StorageHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile file may control its decoder. The decoder gets as many signatures as a file needs."""
    path, decoder = tmp_path / "picture.png", storage.decoders._all[0]
    path.write_bytes(picture())
    asked = 0

    async def asks_again() -> DecodeResult:
        nonlocal asked
        asked += 1
        return DecodeResult(to_sign=b"anything")

    await decoder.start()
    monkeypatch.setattr(decoder, "_read", asks_again)
    with pytest.raises(DecoderFailed):
        await storage.decoders.inspect(path, "image", 10**6)
    assert asked == 1
    with pytest.raises(DecoderFailed):
        await storage.decoders.mark(path, None, "image", 10**6)
    assert asked == 1 + 3
