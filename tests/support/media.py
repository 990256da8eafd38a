"""Small real pictures and clips, made with PyAV."""

import random
import tempfile
from fractions import Fraction
from pathlib import Path

import av


def clip(width: int = 320, height: int = 240, frames: int = 16, rate: int = 8, index_in_front: bool = True) -> bytes:
    """An H.264 mp4 of moving noise; ``index_in_front`` puts the index before the frames, as for streaming."""
    with tempfile.TemporaryDirectory() as directory:
        # The index is moved to the front by reading the file again: a buffer in memory would not do.
        path = Path(directory, "clip.mp4")
        with av.open(str(path), "w", options={"movflags": "+faststart"} if index_in_front else {}) as output:
            stream = output.add_stream("libx264", rate=rate)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.time_base = Fraction(1, rate)
            for number in range(frames):
                for packet in stream.encode(_noise(width, height, "yuv420p", seed=number)):
                    output.mux(packet)
            for packet in stream.encode(None):
                output.mux(packet)
        return path.read_bytes()


def picture(width: int = 320, height: int = 240, seed: int = 7) -> bytes:
    """A PNG with so much noise in it that a truncated one is noticed; another ``seed`` makes another one."""
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = width, height, "rgb24", Fraction(1, 1)
    frame = _noise(width, height, "rgb24", seed)
    return b"".join(bytes(packet) for packet in (*codec.encode(frame), *codec.encode(None)))


def _noise(width: int, height: int, pixel_format: str, seed: int) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, pixel_format)
    source = random.Random(seed)
    for plane in frame.planes:
        plane.update(source.randbytes(plane.buffer_size))
    frame.pts = seed
    return frame
