"""Comparing a file with what was reported and with what was ordered. Pure: no input, no output."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from contracts.values import MediaProperties, ReportedOutput
from storage.errors import Rejected

DURATION_TOLERANCE_MS: Final = 500
DURATION_TOLERANCE_SHARE: Final = 0.1
"""Models round the number of frames: the length of a clip may differ by half a second or a tenth, the larger one."""

MAX_UPLOAD_PIXELS: Final = 50_000_000
"""The largest picture that a user may upload: larger than any phone's, and still decoded in a moment."""
MAX_OUTPUT_PIXELS: Final = 50_000_000
"""The largest frame of an output."""

_EXTENSIONS: Final = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "video/mp4": "mp4",
    "video/webm": "webm",
}


@dataclass(frozen=True, slots=True)
class ExpectedMedia:
    """The dimensions that were ordered. ``duration_ms`` is None for a picture."""

    width_pixels: int
    height_pixels: int
    duration_ms: int | None


@dataclass(frozen=True, slots=True)
class VerifiedUpload:
    """A user's uploaded picture or clip that a model can start from."""

    upload_id: UUID
    user_id: UUID
    object_key: str
    size_bytes: int
    sha256: str
    media: MediaProperties


def check_object_key(generation_id: UUID, object_key: str) -> None:
    """Raise ``Rejected`` if the key is not one of this generation."""
    if not object_key.startswith(f"{generation_id}/"):
        raise Rejected("not_found", "the reported key is not one of this generation")


def check_size_and_checksum(reported: ReportedOutput, size_bytes: int, sha256: str) -> None:
    """Raise ``Rejected`` if the file differs from what the worker reported. What it did not report is not checked."""
    if reported.size_bytes is not None and size_bytes != reported.size_bytes:
        raise Rejected("size_mismatch", f"the file has {size_bytes} bytes, {reported.size_bytes} were reported")
    if reported.sha256 is not None and sha256 != reported.sha256.lower():
        raise Rejected("checksum_mismatch", "the file's sha256 differs from the reported one")


def check_media(expected: ExpectedMedia, media: MediaProperties) -> None:
    """Raise ``Rejected`` if the decoded file differs from what was ordered."""
    if (media.width_pixels, media.height_pixels) != (expected.width_pixels, expected.height_pixels):
        measured = f"{media.width_pixels}x{media.height_pixels}"
        raise Rejected(
            "wrong_dimensions", f"{expected.width_pixels}x{expected.height_pixels} were ordered, not {measured}"
        )
    if expected.duration_ms is not None and media.duration_ms is not None:
        tolerance = max(DURATION_TOLERANCE_MS, round(expected.duration_ms * DURATION_TOLERANCE_SHARE))
        if abs(media.duration_ms - expected.duration_ms) > tolerance:
            raise Rejected("wrong_dimensions", f"{expected.duration_ms} ms were ordered, not {media.duration_ms}")


def library_key(user_id: UUID, generation_id: UUID, content_type: str) -> str:
    """The key of a generation's one output. All attempts share it, so that only one of them can be written."""
    return f"{user_id}/{generation_id}/output.{_EXTENSIONS[content_type]}"


def poster_key(user_id: UUID, generation_id: UUID, output_sha256: str) -> str:
    """The key of an output's still picture.

    It contains the checksum of the output. So a poster always belongs to its clip when two attempts race, and it can
    be written before the output is.
    """
    return f"{user_id}/{generation_id}/poster-{output_sha256[:16]}.jpg"
