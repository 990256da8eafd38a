"""Decodes a file to its last frame, inside a decoder process: files come from outside and may be hostile."""

import contextlib
import io
import itertools
import resource
import sys
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import msgspec
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageOps

from contracts.values import Kind, MediaProperties
from storage.decoding import Inspection
from storage.errors import Rejected

MEMORY_LIMIT_BYTES: Final = 3 * 1024**3
MAX_FRAMES: Final = 20_000
POSTER_LONGEST_SIDE_PIXELS: Final = 1280
_PILLOW_FORMATS: Final = ("PNG", "JPEG", "WEBP")


class Format(msgspec.Struct, frozen=True):
    """A file format: it has ``signature`` at ``offset``, and ``demuxer`` reads it."""

    offset: int
    signature: bytes
    demuxer: str
    content_type: str
    kind: Kind


_FORMATS: Final = (
    Format(4, b"ftyp", "mp4", "video/mp4", "video"),
    Format(0, b"\x1a\x45\xdf\xa3", "matroska", "video/webm", "video"),
    Format(0, b"\x89PNG\r\n\x1a\n", "png_pipe", "image/png", "image"),
    Format(0, b"\xff\xd8\xff", "jpeg_pipe", "image/jpeg", "image"),
    Format(8, b"WEBP", "webp_pipe", "image/webp", "image"),
)


def limit_resources() -> None:
    """Bound the memory of this process. Called once, when a decoder starts."""
    av.logging.set_level(av.logging.PANIC)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # macOS does not enforce RLIMIT_AS, and setting it there can fail.
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))


def inspect(path: str, kind: Kind, max_pixels: int) -> Inspection:
    """Decode a picture, or every frame of a video. Raises ``Rejected`` unless it is a whole file of this ``kind``."""
    detected = _detect_format(Path(path))
    if detected.kind != kind:
        raise Rejected("wrong_kind", f"a {kind} was ordered, and this is {detected.content_type}")
    # Opening a file decodes a frame of each of its streams already: the bound on pixels must hold from here on.
    options = {"protocol_whitelist": "file", "max_pixels": str(max_pixels)}
    try:
        # The demuxer is named, not guessed: a playlist or script that pretends to be a video cannot read other files.
        with av.open(path, format=detected.demuxer, options=options) as container:
            return _decode(container, detected, max_pixels)
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise Rejected("undecodable", f"decoding failed: {type(error).__name__}") from error


def check_readable_by_workers(path: str) -> None:
    """Raise ``Rejected`` if Pillow cannot read the picture.

    GPU workers (ours and ComfyUI) read pictures with Pillow: without this check, such a picture would cost a run.
    """
    try:
        with Image.open(path, formats=_PILLOW_FORMATS) as picture:
            ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        # Which exception Pillow raises for a broken file depends on the format.
        raise Rejected("undecodable", f"workers cannot read it: {type(error).__name__}") from error


def _detect_format(path: Path) -> Format:
    with path.open("rb") as file:
        head = file.read(16)
    for candidate in _FORMATS:
        if head[candidate.offset : candidate.offset + len(candidate.signature)] == candidate.signature:
            return candidate
    raise Rejected("undecodable", "the file is neither a picture nor a video of a known format")


def _decode(container: InputContainer, detected: Format, max_pixels: int) -> Inspection:
    if not container.streams.video:
        raise Rejected("undecodable", "the file has no picture")
    stream = container.streams.video[0]
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height == 0:
        raise Rejected("undecodable", f"the picture is broken, or larger than {max_pixels} pixels")
    stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(max_pixels)}
    # Threads halve the time that a video takes. For the one frame of a picture, starting them costs more than it saves.
    stream.thread_type = "AUTO" if detected.kind == "video" else "NONE"
    decoded = container.decode(stream)
    # A picture can be followed by others, like the gain map of a photograph. Readers show only the first one.
    frames, poster, last = _frames(decoded if detected.kind == "video" else itertools.islice(decoded, 1), stream)
    if frames == 0 or poster is None:
        raise Rejected("undecodable", "the file has no frames")
    if stream.frames and frames < stream.frames:
        raise Rejected("undecodable", f"the file is truncated: {frames} of {stream.frames} frames")
    rate = stream.average_rate or Fraction(0)
    is_video = detected.kind == "video"
    media = MediaProperties(
        content_type=detected.content_type,
        width_pixels=width,
        height_pixels=height,
        codec=stream.codec_context.name,
        duration_ms=_duration_ms(frames, rate, last) if is_video else None,
        frames_per_second=float(rate) if is_video else None,
        frames=frames if is_video else None,
        has_audio=bool(container.streams.audio),
    )
    return Inspection(media, _jpeg(poster))


def _frames(decoded: Iterable[VideoFrame], stream: VideoStream) -> tuple[int, VideoFrame | None, VideoFrame | None]:
    """Return the number of frames, the frame in the middle, and the last frame."""
    middle = stream.frames // 2
    stream_size = (stream.codec_context.width, stream.codec_context.height)
    count, poster, last = 0, None, None
    for frame in decoded:
        if (frame.width, frame.height) != stream_size:
            raise Rejected("wrong_dimensions", f"frame {count} measures {frame.width}x{frame.height}, unlike the first")
        if count <= middle:
            poster = frame
        last = frame
        count += 1
        if count > MAX_FRAMES:
            raise Rejected("wrong_dimensions", f"more than {MAX_FRAMES} frames")
    return count, poster, last


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
