"""Small real pictures and clips, made with PyAV, and a hostile one."""

import io
import random
import struct
import tempfile
import zlib
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path

import av


@cache  # to encode one takes 0.3 s of processor time
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


def coded_clip(
    container: str,
    codec: str,
    pixel_format: str,
    frames: int = 8,
    options: Mapping[str, str] | None = None,
    color_transfer: int = 2,
) -> bytes:
    """A small clip of noise, 64x64 at 16 frames a second, in any container, codec and pixel format."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "clip")
        with av.open(str(path), "w", format=container, options=dict(options or {})) as output:
            coder = {"libx265": {"x265-params": "log-level=none"}, "libx264": {"bf": "0", "g": "8"}}.get(codec, {})
            stream = output.add_stream(codec, rate=16, options=coder)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 64, 64, pixel_format
            stream.time_base, stream.codec_context.color_trc = Fraction(1, 16), color_transfer
            for number in range(frames):
                frame = _noise(64, 64, "yuv420p", seed=number).reformat(format=pixel_format)
                frame.pts, frame.time_base = number, Fraction(1, 16)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        return path.read_bytes()


def frames_of(body: bytes) -> list[bytes]:
    """What a player shows of a clip or picture, frame by frame."""
    with av.open(io.BytesIO(body), "r") as opened:
        return [
            frame.to_image().tobytes()  # type: ignore[no-untyped-call]
            for frame in opened.decode(video=0)
        ]


def with_edit_list(clip: bytes, skip_frames: int, shown_frames: int) -> bytes:
    """The mp4 of ``coded_clip``, of which a player shows ``shown_frames`` after the first ``skip_frames``."""
    at = clip.index(b"elst") + 12
    timescale_at = clip.index(b"mdhd") + 16
    (timescale,) = struct.unpack_from(">I", clip, timescale_at)
    _, start, rate = struct.unpack_from(">IiI", clip, at)
    # The length of an edit counts in the movie's thousandths, its start in units of the track.
    edit = struct.pack(">IiI", shown_frames * 1000 // 16, start + skip_frames * timescale // 16, rate)
    return clip[:at] + edit + clip[at + len(edit) :]


def png_with_chunk(name: bytes, data: bytes) -> bytes:
    """The picture of ``picture()`` with one more chunk before its pixels."""
    header_end = len(b"\x89PNG\r\n\x1a\n") + 4 + 4 + 13 + 4
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    body = picture()
    return body[:header_end] + chunk + body[header_end:]


def picture(width: int = 320, height: int = 240, seed: int = 7) -> bytes:
    """A PNG with so much noise in it that a truncated one is noticed; another ``seed`` makes another one."""
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = width, height, "rgb24", Fraction(1, 1)
    frame = _noise(width, height, "rgb24", seed)
    return b"".join(bytes(packet) for packet in (*codec.encode(frame), *codec.encode(None)))


def endless_photograph(scans: int) -> bytes:
    """A JPEG of 48 million grey pixels that says ``scans`` times of all of them that nothing is to be added.

    Each time takes 75 bytes, and costs FFmpeg a millisecond and Pillow three.
    """
    # So that the blocks of eight by eight pixels are 23 of the longest runs that can be stated.
    width, height, runs = 8 * 7 * 151, 8 * 31 * 23, 23
    blocks = width // 8 * height // 8
    # The code 0, and fourteen bits of the length of the run.
    bits = ("0" + "1" * 14) * runs
    bits += "1" * (-len(bits) % 8)
    nothing_to_add = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    scan = _segment(0xDA, b"\1\1\0\1\x3f\0") + nothing_to_add
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xDB, b"\0" + b"\1" * 64),
            _segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0"),
            _segment(0xC4, b"\0\1" + bytes(15) + b"\0"),
            _segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0"),
            _segment(0xDA, b"\1\1\0\0\0\0") + bytes(-(-blocks // 8)),
            scan * scans,
            b"\xff\xd9",
        )
    )


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def _noise(width: int, height: int, pixel_format: str, seed: int) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, pixel_format)
    source = random.Random(seed)
    for plane in frame.planes:
        plane.update(source.randbytes(plane.buffer_size))
    frame.pts = seed
    return frame
