"""The properties of a media file, measured by decoding it, and a copy that another program could have made."""

import io
from dataclasses import dataclass
from pathlib import Path

import av


@dataclass(frozen=True, kw_only=True)
class MediaProbe:
    """What decoding measured. ``frames`` is the number of decoded frames, not the number in the header."""

    container: str
    codec: str
    width_pixels: int
    height_pixels: int
    frames: int
    duration_seconds: float | None
    frames_per_second: float | None
    size_bytes: int


def probe(path: Path) -> MediaProbe:
    """Decode the whole first video stream of ``path``. Raises av.error.FFmpegError for a broken file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        rate = stream.average_rate
        return MediaProbe(
            container=container.format.name,
            codec=stream.codec_context.name,
            width_pixels=stream.codec_context.width,
            height_pixels=stream.codec_context.height,
            frames=frames,
            duration_seconds=container.duration / av.time_base if container.duration else None,
            frames_per_second=float(rate) if rate else None,
            size_bytes=path.stat().st_size,
        )


def encoded_again(path: Path) -> bytes:
    """The same clip as an H.264 mp4 of our own: what a program makes that cuts or shrinks it."""
    copy = io.BytesIO()
    with av.open(str(path)) as source, av.open(copy, "w", format="mp4") as target:
        original = source.streams.video[0]
        stream = target.add_stream("libx264", rate=original.average_rate)
        stream.width, stream.height, stream.pix_fmt = original.width, original.height, "yuv420p"
        for frame in source.decode(original):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return copy.getvalue()
