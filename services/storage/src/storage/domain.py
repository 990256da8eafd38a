"""Holding a file against what was claimed and asked for. Pure: no input, no output."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from contracts.values import MediaProperties, OutputClaim
from storage.errors import Rejected

DURATION_TOLERANCE_MS: Final = 500
DURATION_TOLERANCE_SHARE: Final = 0.1
"""Models round the number of frames: a clip may differ from its length by half a second or a tenth, if that is more."""

LARGEST_PICTURE_PIXELS: Final = 50_000_000
"""Of what a user uploads: more than any camera phone makes, and still decoded in a moment."""
LARGEST_FRAME_PIXELS: Final = 50_000_000
"""Of what a worker claims to have made."""

_EXTENSIONS: Final = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "video/mp4": "mp4",
    "video/webm": "webm",
}


@dataclass(frozen=True)
class Expectation:
    """What an output must measure."""

    width_pixels: int
    height_pixels: int
    duration_ms: int | None


def check_key(generation_id: UUID, object_key: str) -> None:
    """Raise ``Rejected`` for a file that lies under another generation's name."""
    if not object_key.startswith(f"{generation_id}/"):
        raise Rejected("not_found", "the stated key is not one of this generation")


def check_bytes(claim: OutputClaim, size_bytes: int, sha256: str) -> None:
    """Raise ``Rejected`` where what arrived is not what the worker said it sent."""
    if claim.size_bytes is not None and size_bytes != claim.size_bytes:
        raise Rejected("size_mismatch", f"the file has {size_bytes} bytes, {claim.size_bytes} were stated")
    if claim.sha256 is not None and sha256 != claim.sha256.lower():
        raise Rejected("checksum_mismatch", "the file's sha256 differs from the stated one")


def check_media(expected: Expectation, media: MediaProperties) -> None:
    """Raise ``Rejected`` where what was decoded is not what was asked for."""
    if (media.width_pixels, media.height_pixels) != (expected.width_pixels, expected.height_pixels):
        found = f"{media.width_pixels}x{media.height_pixels}"
        raise Rejected(
            "wrong_dimensions", f"{expected.width_pixels}x{expected.height_pixels} were asked for, not {found}"
        )
    if expected.duration_ms is not None and media.duration_ms is not None:
        tolerance = max(DURATION_TOLERANCE_MS, round(expected.duration_ms * DURATION_TOLERANCE_SHARE))
        if abs(media.duration_ms - expected.duration_ms) > tolerance:
            raise Rejected("wrong_dimensions", f"{expected.duration_ms} ms were asked for, not {media.duration_ms}")


def library_key(user_id: UUID, generation_id: UUID, content_type: str) -> str:
    """Where the one output of a generation lives: the same for every attempt, so that only one can be written."""
    return f"{user_id}/{generation_id}/output.{_EXTENSIONS[content_type]}"


def poster_key(user_id: UUID, generation_id: UUID, output_sha256: str) -> str:
    """Where the still picture of an output lives. It names the file that it was made from, so that neither of two
    attempts that race can show the other's picture, and it need not wait for the output to be written."""
    return f"{user_id}/{generation_id}/poster-{output_sha256[:16]}.jpg"
