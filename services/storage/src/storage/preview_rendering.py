"""Makes small pictures (WebP) of an output, in a decoder process: thumbnails, and of a clip one that moves."""

import io
import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from av.container import InputContainer
from av.video.frame import VideoFrame
from PIL import Image

from contracts.values import Kind
from storage.decoding import PreviewRole, RenderedPreview
from storage.errors import Rejected
from storage.inspection import container_of_kind, first_frame, open_file

THUMBNAIL_SIDES_PIXELS: Final = (256, 512, 1024)
"""The longest sides: a list with small pictures, the card of a gallery on a dense screen, and half a window."""
ANIMATED_SIDE_PIXELS: Final = 320
"""A moving picture need not be sharp: it fills the card of a gallery on an ordinary screen."""
ANIMATED_SECONDS: Final = 3
ANIMATED_FRAMES_PER_SECOND: Final = 8
MAX_ANIMATED_FRAMES: Final = ANIMATED_SECONDS * ANIMATED_FRAMES_PER_SECOND
_FRAME_MS: Final = 1000 // ANIMATED_FRAMES_PER_SECOND
_THUMBNAIL_QUALITY: Final = 75
_ANIMATED_QUALITY: Final = 50
_METHOD: Final = 0
"""The fastest way to encode: a third of the time of the usual one, for files that are a tenth larger."""


def render_previews(path: str, kind: Kind, max_pixels: int) -> tuple[RenderedPreview, ...]:
    """Thumbnails, the smallest first, then the animated preview of a clip. Raises ``Rejected``.

    Nothing is enlarged: of a small output there are fewer thumbnails, the largest in its own size.
    """
    container = container_of_kind(path, kind)
    with open_file(path, container, max_pixels) as opened:
        if kind == "image":
            return tuple(_thumbnails(first_frame(opened, max_pixels, strict=False)))
        still, moving = _frames(opened, max_pixels)
        return (*_thumbnails(still), *_animated(moving))


def _frames(opened: InputContainer, max_pixels: int) -> tuple[VideoFrame, list[tuple[float, Image.Image]]]:
    """The frame in the middle, as on the poster, and frames from the start with their times in seconds.

    No more of the clip is decoded than these need.
    """
    stream = opened.streams.video[0]
    stream.codec_context.options = {"max_pixels": str(max_pixels)}
    stream.thread_type = "NONE"
    middle = stream.frames // 2
    rate = stream.average_rate or Fraction(ANIMATED_FRAMES_PER_SECOND)
    still: VideoFrame | None = None
    moving: list[tuple[float, Image.Image]] = []
    for number, frame in enumerate(opened.decode(stream)):
        at = float(number / rate)
        if number <= middle:
            still = frame
        if at >= ANIMATED_SECONDS and number >= middle:
            break
        if (
            at < ANIMATED_SECONDS
            and at * ANIMATED_FRAMES_PER_SECOND >= len(moving)
            and len(moving) < MAX_ANIMATED_FRAMES
        ):
            moving.append((at, _scaled(frame, ANIMATED_SIDE_PIXELS)))
    if still is None:
        raise Rejected("undecodable", "the file has no frames")
    return still, moving


def _thumbnails(frame: VideoFrame) -> Iterator[RenderedPreview]:
    longest = max(frame.width, frame.height)
    for side in sorted({min(side, longest) for side in THUMBNAIL_SIDES_PIXELS}):
        body = io.BytesIO()
        picture = _scaled(frame, side)
        picture.save(body, "WEBP", quality=_THUMBNAIL_QUALITY, method=_METHOD)
        yield _rendered("thumbnail", picture, body)


def _animated(frames: list[tuple[float, Image.Image]]) -> Iterator[RenderedPreview]:
    """One that moves, for ever, if there is more than one frame."""
    if len(frames) < 2:
        return
    times = [at for at, _ in frames]
    durations = [round((after - at) * 1000) for at, after in itertools.pairwise(times)]
    first, *others = (picture for _, picture in frames)
    body = io.BytesIO()
    first.save(
        body,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=[*durations, _FRAME_MS],
        loop=0,
        quality=_ANIMATED_QUALITY,
        method=_METHOD,
        # Only the first frame stands for itself: half of the size.
        kmax=0,
    )
    yield _rendered("animated", first, body)


def _scaled(frame: VideoFrame, side: int) -> Image.Image:
    scale = min(1.0, side / max(frame.width, frame.height))
    width, height = (max(1, round(length * scale)) for length in (frame.width, frame.height))
    scaled: Image.Image = frame.to_image(width=width, height=height)  # type: ignore[no-untyped-call]
    return scaled


def _rendered(role: PreviewRole, picture: Image.Image, body: io.BytesIO) -> RenderedPreview:
    return RenderedPreview(role, picture.width, picture.height, body.getvalue())
