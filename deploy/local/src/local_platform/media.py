"""What a media file is, measured by decoding it."""

from dataclasses import dataclass
from pathlib import Path

import av


@dataclass(frozen=True, kw_only=True)
class MediaProbe:
    """Measured, not read from headers: ``frames`` is the number of pictures that were decoded."""

    container: str
    codec: str
    width_pixels: int
    height_pixels: int
    frames: int
    duration_seconds: float | None
    frames_per_second: float | None
    tags: dict[str, str]
    size_bytes: int


def probe(path: Path) -> MediaProbe:
    """Decode the whole first video stream of ``path``. Raises av.error.FFmpegError if that is impossible."""
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
            tags=dict(container.metadata),
            size_bytes=path.stat().st_size,
        )
