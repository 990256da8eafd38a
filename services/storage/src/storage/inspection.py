"""Decoding a file to the last frame, in processes of its own: files come from outside and may be hostile."""

import contextlib
import io
import resource
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from contracts.values import MediaProperties
from storage.errors import Rejected

MEMORY_LIMIT_BYTES: Final = 3 * 1024**3
LARGEST_FRAME_PIXELS: Final = 50_000_000
MOST_FRAMES: Final = 20_000
POSTER_LONGEST_SIDE_PIXELS: Final = 1280

_SIGNATURES: Final[tuple[tuple[int, bytes, str, str], ...]] = (
    (4, b"ftyp", "mp4", "video/mp4"),
    (0, b"\x1a\x45\xdf\xa3", "matroska", "video/webm"),
    (0, b"\x89PNG\r\n\x1a\n", "png_pipe", "image/png"),
    (0, b"\xff\xd8\xff", "jpeg_pipe", "image/jpeg"),
    (8, b"WEBP", "webp_pipe", "image/webp"),
)


@dataclass(frozen=True)
class Inspection:
    """What a file turned out to be, and a still picture of it (JPEG)."""

    media: MediaProperties
    poster: bytes


def limit_resources() -> None:
    """Bound what one decoder process may take. Called once, when the process starts."""
    av.logging.set_level(av.logging.PANIC)
    # macOS does not enforce RLIMIT_AS, and setting it there can fail.
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))


def inspect(path: str, largest_pixels: int = LARGEST_FRAME_PIXELS) -> Inspection:
    """Decode every frame of the file. Raises ``Rejected`` for what is no whole picture or video."""
    demuxer, content_type = _recognise(Path(path))
    try:
        # The format is given, not guessed: no playlist or script can be passed off as a video and read other files.
        with av.open(path, format=demuxer, options={"protocol_whitelist": "file"}) as container:
            return _decode(container, content_type, largest_pixels)
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise Rejected("undecodable", f"decoding failed: {type(error).__name__}") from error


def _recognise(path: Path) -> tuple[str, str]:
    with path.open("rb") as file:
        head = file.read(16)
    for offset, signature, demuxer, content_type in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return demuxer, content_type
    raise Rejected("undecodable", "the file is neither a picture nor a video of a known format")


def _decode(container: InputContainer, content_type: str, largest_pixels: int) -> Inspection:
    if not container.streams.video:
        raise Rejected("undecodable", "the file has no picture")
    stream = container.streams.video[0]
    width, height = stream.codec_context.width, stream.codec_context.height
    if not 0 < width * height <= largest_pixels:
        raise Rejected("wrong_dimensions", f"{width}x{height} pixels are more than is allowed")
    stream.codec_context.options = {"err_detect": "explode"}
    stream.thread_type = "AUTO"
    frames, poster, last = _frames(container, stream)
    if frames == 0 or poster is None:
        raise Rejected("undecodable", "the file has no frames")
    if stream.frames and frames < stream.frames:
        raise Rejected("undecodable", f"the file is truncated: {frames} of {stream.frames} frames")
    is_video = content_type.startswith("video/")
    rate = stream.average_rate or Fraction(0)
    media = MediaProperties(
        content_type=content_type,
        width_pixels=width,
        height_pixels=height,
        codec=stream.codec_context.name,
        duration_ms=_duration_ms(frames, rate, last) if is_video else None,
        frames_per_second=float(rate) if is_video else None,
        frames=frames if is_video else None,
        has_audio=bool(container.streams.audio),
    )
    return Inspection(media, _jpeg(poster))


def _frames(container: InputContainer, stream: VideoStream) -> tuple[int, VideoFrame | None, VideoFrame | None]:
    wanted = stream.frames // 2
    count, poster, last = 0, None, None
    for frame in container.decode(stream):
        if count <= wanted:
            poster = frame
        last = frame
        count += 1
        if count > MOST_FRAMES:
            raise Rejected("wrong_dimensions", f"more than {MOST_FRAMES} frames")
    return count, poster, last


def _duration_ms(frames: int, rate: Fraction, last: VideoFrame | None) -> int:
    if rate:
        return round(1000 * frames / rate)
    return round(1000 * last.time) if last is not None and last.time is not None else 0


def _jpeg(frame: VideoFrame) -> bytes:
    scale = min(1.0, POSTER_LONGEST_SIDE_PIXELS / max(frame.width, frame.height))
    # Chroma is halved in both directions: the encoder wants even sides.
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
