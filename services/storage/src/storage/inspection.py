"""Decodes a file to its last frame, inside a decoder process: files come from outside and may be hostile."""

import contextlib
import io
import resource
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageFile

from contracts.values import Kind, MediaProperties
from storage.containers import Container, check_is_whole, detect_container
from storage.decoding import Inspection
from storage.errors import Rejected
from storage.jpeg_scans import ends_between_scans

MEMORY_LIMIT_BYTES: Final = 3 * 1024**3
MAX_FRAMES: Final = 20_000
POSTER_LONGEST_SIDE_PIXELS: Final = 1280
OWN_POSTER_BYTES: Final = 256 * 1024
"""An output that is a picture, no larger than a poster and about as quick to load, has no other one."""
MAX_MISSING_SHARE: Final = 0.05
"""Of the lines of a user's picture. Workers show them grey or black. Nobody means to upload one that lacks more."""
_UNPAINTED: Final = (0, 64, 128)
"""What Pillow shows where nothing came: black in a PNG; grey in a JPEG, which is darker if it is one for print."""
_PILLOW_FORMATS: Final = ("PNG", "JPEG", "WEBP")
_CODECS: Final = {"png": "png", "jpg": "mjpeg", "webp": "webp"}


def limit_resources() -> None:
    """Bound the memory of this process. Called once, when a decoder starts."""
    av.logging.set_level(av.logging.PANIC)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # macOS does not enforce RLIMIT_AS, and setting it there can fail.
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))


def inspect(path: str, kind: Kind, max_pixels: int) -> Inspection:
    """Decode a picture, or every frame of a video. Raises ``Rejected`` unless it is a whole file of this ``kind``."""
    container = container_of_kind(path, kind)
    if container.name == "jpg" and ends_between_scans(Path(path).read_bytes()):
        raise Rejected("undecodable", "the picture is truncated")
    with open_file(path, container, max_pixels) as opened:
        return _decode(opened, container, max_pixels)


def inspect_upload(path: str, kind: Kind, max_pixels: int) -> Inspection:
    """Decode a user's file as tolerantly as GPU workers do. Raises ``Rejected`` if they could make nothing of it.

    ComfyUI reads pictures with FFmpeg, which forgives much, and with Pillow where FFmpeg finds no picture. Our worker
    and older ones read them with Pillow. Clips are read with FFmpeg only.
    """
    if kind == "video":
        return inspect(path, kind, max_pixels)
    container = container_of_kind(path, kind)
    picture = _shown_by_pillow(path, max_pixels)
    if not _is_whole(path, container, max_pixels):
        _check_enough_is_there(picture)
    codec = _CODECS[container.name]
    media = MediaProperties(
        content_type=container.content_type, width_pixels=picture.width, height_pixels=picture.height, codec=codec
    )
    return Inspection(media, container.name)


def container_of_kind(path: str, kind: Kind) -> Container:
    """The container of a file that is whole. Raises ``Rejected`` if it is not of this ``kind``, or truncated."""
    container = detect_container(Path(path))
    if container.kind != kind:
        raise Rejected("wrong_kind", f"a {kind} was ordered, and this is {container.content_type}")
    check_is_whole(Path(path), container)
    return container


@contextlib.contextmanager
def open_file(path: str, container: Container, max_pixels: int) -> Iterator[InputContainer]:
    """Open a file for FFmpeg. What it raises for the file, also in the block, is an answer about the file."""
    # Opening a file decodes a frame of each of its streams already: the bound on pixels must hold from here on.
    options = {"protocol_whitelist": "file", "max_pixels": str(max_pixels)}
    # The demuxer is named, not guessed: a playlist or script that pretends to be a video cannot read other files.
    with _answers_about_the_file("decoding failed"), av.open(path, format=container.demuxer, options=options) as opened:
        yield opened


@contextlib.contextmanager
def _answers_about_the_file(failure: str) -> Iterator[None]:
    """Whatever a parser raises is the answer about this file. Files from outside make parsers raise anything."""
    try:
        yield
    except Rejected:
        raise
    except Exception as error:
        raise Rejected("undecodable", f"{failure}: {type(error).__name__}") from error


def _is_whole(path: str, container: Container, max_pixels: int) -> bool:
    """Whether FFmpeg finds nothing missing or broken in a picture. Raises ``Rejected`` if ComfyUI would fail on it."""
    try:
        with open_file(path, container, max_pixels) as opened:
            first_frame(opened, max_pixels, strict=True)
            _check_stands_alone(opened, container)
            return True
    except Rejected as refusal:
        if refusal.code == "animated":
            raise
        with open_file(path, container, max_pixels) as opened, contextlib.suppress(av.InvalidDataError):
            # ComfyUI takes what FFmpeg makes of it. If that is nothing, it reads the picture with Pillow.
            first_frame(opened, max_pixels, strict=False)
            _check_stands_alone(opened, container)
        return False


def _check_stands_alone(opened: InputContainer, container: Container) -> None:
    """Raise ``Rejected`` if FFmpeg finds another picture behind the first one of a PNG or WebP, which is read.

    ComfyUI loads every one that FFmpeg finds. Of a JPEG named ``.png`` it finds none there.
    """
    if container.name in ("png", "webp"):
        with contextlib.suppress(av.InvalidDataError):
            for _ in opened.decode(opened.streams.video[0]):
                raise Rejected("animated", "other pictures lie behind the first one")


def first_frame(opened: InputContainer, max_pixels: int, *, strict: bool) -> VideoFrame:
    """The picture of a file. Raises ``Rejected``; with ``strict`` also for what FFmpeg would forgive."""
    stream = opened.streams.video[0]
    stream.codec_context.options = {"max_pixels": str(max_pixels)} | ({"err_detect": "explode"} if strict else {})
    # For the one frame of a picture, starting threads costs more than they save.
    stream.thread_type = "NONE"
    for frame in opened.decode(stream):
        return frame
    raise Rejected("undecodable", "the file has no frames")


def _shown_by_pillow(path: str, max_pixels: int) -> Image.Image:
    """The picture as workers see it that read it with Pillow, truncated or not. Its EXIF is of no interest here."""
    # As ComfyUI does. It also lets Pillow skip texts and colour profiles that are larger than it likes.
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    with _answers_about_the_file("workers cannot read it"), Image.open(path, formats=_PILLOW_FORMATS) as picture:
        if picture.width * picture.height > max_pixels:
            raise Rejected("undecodable", f"the picture is larger than {max_pixels} pixels")
        # A photograph with a second picture behind it counts as several. Workers show its first one.
        if picture.format in ("PNG", "WEBP") and getattr(picture, "n_frames", 1) > 1:
            raise Rejected("animated", "the picture is animated")
        return picture.convert("RGB")


def _check_enough_is_there(picture: Image.Image) -> None:
    """Raise ``Rejected`` if more than the last lines are missing."""
    lines = max(1, int(picture.height * MAX_MISSING_SHARE))
    bottom = picture.crop((0, picture.height - lines, picture.width, picture.height))
    if any(bottom.getextrema() == ((level, level),) * 3 for level in _UNPAINTED):
        raise Rejected("undecodable", "the picture is truncated")


def _decode(opened: InputContainer, container: Container, max_pixels: int) -> Inspection:
    if not opened.streams.video:
        raise Rejected("undecodable", "the file has no picture")
    stream = opened.streams.video[0]
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height == 0:
        raise Rejected("undecodable", f"the picture is broken, or larger than {max_pixels} pixels")
    is_video = container.kind == "video"
    if is_video:
        stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(max_pixels)}
        # Threads halve the time that a video takes.
        stream.thread_type = "AUTO"
        frames, poster, last, densest = _frames(opened.decode(stream), stream)
        presented = _presented_frames(stream)
        if presented and frames < presented:
            raise Rejected("undecodable", f"the file is truncated: {frames} of {presented} frames")
    else:
        # A picture can be followed by others, like the gain map of a photograph. Readers show only the first one.
        poster = last = first_frame(opened, max_pixels, strict=True)
        frames, densest = 1, 0
    if poster is None:
        raise Rejected("undecodable", "the file has no frames")
    rate = stream.average_rate or Fraction(0)
    media = MediaProperties(
        content_type=container.content_type,
        width_pixels=width,
        height_pixels=height,
        codec=stream.codec.canonical_name,
        duration_ms=_duration_ms(frames, rate, last) if is_video else None,
        frames_per_second=float(rate) if is_video else None,
        frames=frames if is_video else None,
        has_audio=bool(opened.streams.audio),
    )
    return Inspection(
        media,
        container.name,
        pixel_format=stream.codec_context.pix_fmt or "",
        color_transfer=int(stream.codec_context.color_trc),
        audio_codecs=tuple(track.codec.canonical_name for track in opened.streams.audio),
        poster=b"" if not is_video and _is_own_poster(opened.size, width, height) else _jpeg(poster),
        most_frames_in_a_second=densest,
    )


def _is_own_poster(size_bytes: int, width: int, height: int) -> bool:
    return size_bytes <= OWN_POSTER_BYTES and max(width, height) <= POSTER_LONGEST_SIDE_PIXELS


def _presented_frames(stream: VideoStream) -> int:
    """How many frames the index says that a player presents; 0 if there is no index of all frames.

    An edit list leaves out frames: they are decoded where others need them, and marked in the index as not shown.
    Fragments are added to the index as they are read, so this is called after the last frame.
    """
    if stream.container.format.name.startswith("matroska"):
        # Its index lists places to seek to.
        return 0
    return sum(1 for entry in stream.index_entries if not entry.is_discard)


def _frames(
    decoded: Iterable[VideoFrame], stream: VideoStream
) -> tuple[int, VideoFrame | None, VideoFrame | None, int]:
    """Return the number of frames, the frame in the middle, the last frame, and the most frames within one second."""
    middle = stream.frames // 2
    stream_size = (stream.codec_context.width, stream.codec_context.height)
    count, poster, last, densest = 0, None, None, 0
    times: deque[float] = deque()
    for frame in decoded:
        if (frame.width, frame.height) != stream_size:
            raise Rejected("wrong_dimensions", f"frame {count} measures {frame.width}x{frame.height}, unlike the first")
        if count <= middle:
            poster = frame
        last = frame
        count += 1
        if count > MAX_FRAMES:
            raise Rejected("wrong_dimensions", f"more than {MAX_FRAMES} frames")
        times.append(frame.time or 0.0)
        while times[-1] - times[0] >= 1:
            times.popleft()
        densest = max(densest, len(times))
    return count, poster, last, densest


def _duration_ms(frames: int, rate: Fraction, last: VideoFrame | None) -> int:
    if rate:
        return round(1000 * frames / rate)
    return round(1000 * last.time) if last is not None and last.time is not None else 0


def _jpeg(frame: VideoFrame) -> bytes:
    scale = min(1.0, POSTER_LONGEST_SIDE_PIXELS / max(frame.width, frame.height))
    # The encoder halves the chroma in both directions, and so needs even sides.
    width, height = (max(2, round(side * scale) // 2 * 2) for side in (frame.width, frame.height))
    small = frame.reformat(width=width, height=height, format="yuvj420p")
    small.pts = 0
    buffer = io.BytesIO()
    with contextlib.closing(av.open(buffer, "w", format="mjpeg")) as output:
        stream = output.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p"
        for packet in (*stream.encode(small), *stream.encode(None)):
            output.mux(packet)
    return buffer.getvalue()
