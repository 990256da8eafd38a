"""Comparing a file with what was reported and with what was ordered. Pure: no input, no output."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from contracts.object_keys import library_folder
from contracts.values import MediaProperties, ReportedOutput
from storage.decoding import Inspection
from storage.errors import Rejected

DURATION_TOLERANCE_MS: Final = 500
DURATION_TOLERANCE_SHARE: Final = 0.1
"""Models round the number of frames: the length of a clip may differ by half a second or a tenth, the larger one."""

MAX_UPLOAD_PIXELS: Final = 50_000_000
"""The largest picture that a user may upload: larger than any phone's, and still decoded in a moment."""
MAX_OUTPUT_PIXELS: Final = 50_000_000
"""The largest frame of an output."""
MAX_MISSING_CLIP_MS: Final = 250
"""How much a user's clip may lack of what is ordered of it: so much less than an output may."""
MAX_CLIP_FRAMES_IN_A_SECOND: Final = 70
"""Of a user's clip: 60, and what an uneven clock makes of them. The price is for seconds, the work is for frames."""


@dataclass(frozen=True, slots=True)
class _Playable:
    """What every browser plays in the clips of one container."""

    codecs: frozenset[str]
    audio_codecs: frozenset[str]


_CLIPS: Final = {
    "mp4": _Playable(frozenset({"h264", "av1"}), frozenset({"aac", "mp3", "opus", "flac"})),
    "webm": _Playable(frozenset({"vp8", "vp9", "av1"}), frozenset({"opus", "vorbis"})),
}
"""By the extension of an output. HEVC, ProRes and MPEG-4 part 2 play in some browsers only."""
_PIXEL_FORMATS: Final = frozenset({"yuv420p", "yuvj420p"})
"""Of a clip. HDR and more than 8 bits, 4:2:2 and 4:4:4 play in some browsers only."""
_HDR_TRANSFERS: Final[Mapping[int, str]] = {16: "PQ", 18: "HLG"}
"""Numbers of ITU-T H.273, table 3. Shown on an ordinary screen, such a clip is grey or too dark, however many bits."""
_PICTURES: Final = frozenset({"png", "jpg", "webp"})


@dataclass(frozen=True, slots=True)
class ExpectedMedia:
    """What was ordered. ``duration_ms`` is None for a picture.

    ``extension`` is None in a request of the release that did not say it: then any container of outputs will do.
    """

    width_pixels: int
    height_pixels: int
    duration_ms: int | None
    extension: str | None = None


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


def check_format(expected: ExpectedMedia, inspection: Inspection) -> None:
    """Raise ``Rejected`` if a clip is not in the ordered container, or an output plays in some browsers only.

    A picture may come as another type of picture: forks of the stock worker convert it, and browsers show all three.
    """
    container, codec = inspection.container, inspection.media.codec
    if container in _PICTURES:
        return
    if container not in _CLIPS or container != (expected.extension or container):
        raise Rejected("wrong_format", f"{expected.extension or 'mp4 or webm'} was ordered, and this is {container}")
    playable = _CLIPS[container]
    if codec not in playable.codecs:
        raise Rejected("wrong_format", f"{codec} in {container} does not play in every browser")
    if inspection.pixel_format not in _PIXEL_FORMATS:
        raise Rejected("wrong_format", f"{inspection.pixel_format} does not play in every browser")
    if (transfer := _HDR_TRANSFERS.get(inspection.color_transfer)) is not None:
        raise Rejected("wrong_format", f"HDR ({transfer}) does not look right in every browser")
    for sound in inspection.audio_codecs:
        if sound not in playable.audio_codecs:
            raise Rejected("wrong_format", f"sound as {sound} in {container} does not play in every browser")


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


def check_clip(ordered_ms: int | None, inspection: Inspection) -> None:
    """Raise ``Rejected`` if a user's clip makes no output of ``ordered_ms``, or one that costs more than its price.

    A worker would fail on it, or find out at the end: three times, and the credits go back.
    """
    has_ms = inspection.media.duration_ms or 0
    if ordered_ms is not None and has_ms < ordered_ms - MAX_MISSING_CLIP_MS:
        raise Rejected("wrong_dimensions", f"{ordered_ms} ms of the clip were ordered, and it has {has_ms}")
    if inspection.most_frames_in_a_second > MAX_CLIP_FRAMES_IN_A_SECOND:
        frames = inspection.most_frames_in_a_second
        raise Rejected("wrong_dimensions", f"{frames} frames in a second, more than {MAX_CLIP_FRAMES_IN_A_SECOND}")


def library_key(user_id: UUID, generation_id: UUID, extension: str) -> str:
    """The key of a generation's one output. All attempts share it, so that only one of them can be written.

    ``extension`` is the ordered one, also of a picture of another type.
    """
    return f"{library_folder(user_id, generation_id)}output.{extension}"
