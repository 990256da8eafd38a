"""Holding a file against what was claimed and asked for. Pure: no input, no output."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from contracts.values import Kind, MediaProperties, OutputClaim
from storage.errors import Rejected

DURATION_TOLERANCE_MS: Final = 500
DURATION_TOLERANCE_SHARE: Final = 0.1
"""Models round the number of frames: a clip may differ from its length by half a second or a tenth, if that is more."""

LARGEST_UPLOAD_BYTES: Final = 20 * 1024 * 1024
LARGEST_PICTURE_PIXELS: Final = 50_000_000
"""What a user may upload: more than any camera phone makes, and still decoded in a moment."""

PICTURE_EXTENSIONS: Final = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
VIDEO_EXTENSIONS: Final = {"video/mp4": "mp4", "video/webm": "webm"}


@dataclass(frozen=True)
class Expectation:
    """What an output must be."""

    kind: Kind
    width_pixels: int
    height_pixels: int
    duration_ms: int | None
    max_size_bytes: int


def check_bytes(claim: OutputClaim, size_bytes: int, sha256: str) -> None:
    """Raise ``Rejected`` where what arrived is not what the worker said it sent."""
    if claim.size_bytes is not None and size_bytes != claim.size_bytes:
        raise Rejected("size_mismatch", f"the file has {size_bytes} bytes, {claim.size_bytes} were stated")
    if claim.sha256 is not None and sha256 != claim.sha256.lower():
        raise Rejected("checksum_mismatch", "the file's sha256 differs from the stated one")


def check_media(expected: Expectation, media: MediaProperties) -> None:
    """Raise ``Rejected`` where what was decoded is not what was asked for."""
    kind = "video" if media.content_type in VIDEO_EXTENSIONS else "image"
    if kind != expected.kind:
        raise Rejected("wrong_kind", f"a {expected.kind} was asked for, and this is {media.content_type}")
    if (media.width_pixels, media.height_pixels) != (expected.width_pixels, expected.height_pixels):
        found = f"{media.width_pixels}x{media.height_pixels}"
        raise Rejected(
            "wrong_dimensions", f"{expected.width_pixels}x{expected.height_pixels} were asked for, not {found}"
        )
    if expected.duration_ms is not None and media.duration_ms is not None:
        tolerance = max(DURATION_TOLERANCE_MS, round(expected.duration_ms * DURATION_TOLERANCE_SHARE))
        if abs(media.duration_ms - expected.duration_ms) > tolerance:
            raise Rejected("wrong_dimensions", f"{expected.duration_ms} ms were asked for, not {media.duration_ms}")


def check_upload(media: MediaProperties) -> None:
    """Raise ``Rejected`` for an upload that no model can start from."""
    if media.content_type not in PICTURE_EXTENSIONS:
        raise Rejected("wrong_kind", f"a picture is needed, and this is {media.content_type}")


def library_key(user_id: UUID, generation_id: UUID, content_type: str) -> str:
    """Where the one output of a generation lives: the same for every attempt, so that only one can be written."""
    extension = (PICTURE_EXTENSIONS | VIDEO_EXTENSIONS)[content_type]
    return f"{user_id}/{generation_id}/output.{extension}"


def poster_key(user_id: UUID, generation_id: UUID) -> str:
    """Where the still picture of a generation lives."""
    return f"{user_id}/{generation_id}/poster.jpg"


def upload_key(user_id: UUID, upload_id: UUID) -> str:
    """Where a user's upload lies. The owner is part of the name: nobody can name another's."""
    return f"{user_id}/{upload_id}"
