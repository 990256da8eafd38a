"""Decoding hostile, broken and ordinary files."""

import io
import re
import struct
import time
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.video.codeccontext import VideoCodecContext
from PIL import Image

from contracts.values import Kind
from storage import inspection
from storage.decoding import Inspection
from storage.errors import Rejected
from storage.inspection import POSTER_LONGEST_SIDE_PIXELS, inspect
from tests.support.media import clip, picture


def inspected(directory: Path, body: bytes, kind: Kind, max_pixels: int = 50_000_000) -> Inspection:
    path = directory / "file"
    path.write_bytes(body)
    return inspect(str(path), kind, max_pixels)


def black_png(width: int, height: int) -> bytes:
    """A PNG of any size in almost no bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    row = b"\0" * (width + 1)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def picture_as(codec_name: str, pixel_format: str, width: int = 320, height: int = 240) -> bytes:
    """The picture of ``picture()`` in another format."""
    with av.open(io.BytesIO(picture(width, height)), "r", format="png_pipe") as source:
        frame = next(source.decode(video=0)).reformat(format=pixel_format)
    codec = av.CodecContext.create(codec_name, "w")
    assert isinstance(codec, VideoCodecContext)
    codec.width, codec.height, codec.pix_fmt, codec.time_base = width, height, pixel_format, Fraction(1, 1)
    frame.pts = 0
    return b"".join(bytes(packet) for packet in (*codec.encode(frame), *codec.encode(None)))


def uneven_clip(milliseconds: Sequence[int]) -> bytes:
    """A clip whose frames are shown at these times."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for at in milliseconds:
            frame = av.VideoFrame(64, 64, "yuv420p")
            frame.pts = at
            for packet in stream.encode(frame):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    return buffer.getvalue()


def test_a_clip_is_measured_frame_by_frame(tmp_path: Path) -> None:
    measured = inspected(tmp_path, clip(frames=33, rate=16), "video")
    media = measured.media
    assert (media.frames, media.frames_per_second, media.duration_ms) == (33, 16.0, 2062)
    assert (media.codec, media.has_audio) == ("h264", False)
    assert measured.most_frames_in_a_second == 16


def test_the_most_frames_of_a_second_are_counted_wherever_they_are(tmp_path: Path) -> None:
    milliseconds = [*range(0, 5000, 1000), *range(5000, 6000, 10), *range(6000, 30000, 1000)]
    measured = inspected(tmp_path, uneven_clip(milliseconds), "video")
    assert measured.most_frames_in_a_second == 100
    assert (measured.media.frames_per_second or 100) < 10


@pytest.mark.parametrize(("codec", "pixels", "expected"), [("png", "rgb24", "png"), ("mjpeg", "yuvj420p", "jpeg")])
def test_pictures_have_no_length(tmp_path: Path, codec: str, pixels: str, expected: str) -> None:
    media = inspected(tmp_path, picture_as(codec, pixels), "image").media
    assert media.content_type == f"image/{expected}"
    assert (media.duration_ms, media.frames, media.frames_per_second) == (None, None, None)


def progressive_jpeg() -> bytes:
    packed = io.BytesIO()
    with Image.open(io.BytesIO(picture(96, 64))) as shown:
        shown.convert("RGB").save(packed, "JPEG", progressive=True)
    return packed.getvalue()


def test_a_jpeg_that_lacks_later_scans_is_truncated(tmp_path: Path) -> None:
    whole = progressive_jpeg()
    later_scans = [found.start() for found in re.finditer(b"\xff\xda", whole)][1:]
    assert len(later_scans) > 5
    for start in later_scans:
        with pytest.raises(Rejected, match="truncated"):
            inspected(tmp_path, whole[:start], "image")


@pytest.mark.parametrize("lacking", [0, 2])
def test_a_progressive_jpeg_with_all_its_scans_is_whole(tmp_path: Path, lacking: int) -> None:
    whole = progressive_jpeg()
    assert inspected(tmp_path, whole[: len(whole) - lacking], "image").media.codec == "mjpeg"


def test_a_jpeg_that_ends_as_its_encoder_meant_is_whole(tmp_path: Path) -> None:
    whole = progressive_jpeg()
    coarse = whole[: whole.rindex(b"\xff\xda")] + b"\xff\xd9"
    assert inspected(tmp_path, coarse, "image").media.codec == "mjpeg"


def test_a_second_picture_behind_a_photograph_is_ignored(tmp_path: Path) -> None:
    """Phones append a gain map or a second view of another size. Readers of JPEG show the first picture."""
    photograph, gain_map = picture_as("mjpeg", "yuvj420p"), picture_as("mjpeg", "yuvj420p", 80, 60)
    media = inspected(tmp_path, photograph + gain_map, "image").media
    assert (media.width_pixels, media.height_pixels) == (320, 240)


def test_pictures_behind_a_picture_are_not_decoded(tmp_path: Path) -> None:
    """An upload can contain hundreds of large black pictures: they would occupy a decoder until its time is up."""
    pictures = black_png(6000, 6000) * 40
    started = time.process_time()
    inspected(tmp_path, pictures, "image")
    # One of them takes a third of a second.
    assert time.process_time() - started < 2
    inspected(tmp_path, picture() + b"what some programs leave behind" * 100, "image")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_photograph_is_undecodable(tmp_path: Path, share: float) -> None:
    body = picture_as("mjpeg", "yuvj420p")
    with pytest.raises(Rejected) as refusal:
        inspected(tmp_path, body[: int(len(body) * share)], "image")
    assert refusal.value.code == "undecodable"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_clip_is_undecodable(tmp_path: Path, share: float) -> None:
    body = clip()
    with pytest.raises(Rejected) as refusal:
        inspected(tmp_path, body[: int(len(body) * share)], "video")
    assert refusal.value.code == "undecodable"


def test_a_clip_with_bytes_flipped_inside_is_undecodable(tmp_path: Path) -> None:
    body = bytearray(clip())
    middle = len(body) * 2 // 3
    body[middle : middle + 4000] = bytes(4000)
    with pytest.raises(Rejected) as refusal:
        inspected(tmp_path, bytes(body), "video")
    assert refusal.value.code == "undecodable"


def test_a_small_file_with_too_many_pixels_is_rejected_undecoded(tmp_path: Path) -> None:
    bomb = black_png(9000, 9000)
    assert len(bomb) < 200_000
    started = time.process_time()
    with pytest.raises(Rejected) as refusal:
        inspected(tmp_path, bomb, "image")
    # Decoding it takes more than a second.
    assert time.process_time() - started < 0.2
    assert refusal.value.code == "undecodable"


def test_other_tracks_with_too_many_pixels_are_not_decoded(tmp_path: Path) -> None:
    path, bomb = tmp_path / "tracks.mp4", black_png(12_000, 12_000)
    with av.open(io.BytesIO(clip()), "r") as source, av.open(str(path), "w", format="mp4") as output:
        copy = output.add_stream_from_template(source.streams.video[0])
        beside = [output.add_stream("png", rate=8) for _ in range(3)]
        for track in beside:
            track.width, track.height, track.pix_fmt = 12_000, 12_000, "rgb24"
            track.codec_context.open()
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                output.mux(packet)
        for track in beside:
            large = av.Packet(bomb)
            large.stream, large.pts, large.dts, large.time_base = track, 0, 0, Fraction(1, 8)
            output.mux(large)
    started = time.process_time()
    assert inspected(tmp_path, path.read_bytes(), "video").media.frames == 16
    # Decoding them takes more than a second.
    assert time.process_time() - started < 0.4


def test_a_file_of_the_other_kind_is_rejected_undecoded(tmp_path: Path) -> None:
    files: tuple[tuple[bytes, Kind], ...] = ((clip()[:64], "image"), (picture()[:64], "video"))
    for body, kind in files:
        with pytest.raises(Rejected) as refusal:
            inspected(tmp_path, body, kind)
        assert refusal.value.code == "wrong_kind"


@pytest.mark.parametrize(
    "body", [b"", b"x", b"\0" * 4096, b"\x89PNG\r\n\x1a\n", b"\0\0\0\x18ftypisom", b"\xff\xd8\xff"]
)
def test_garbage_is_undecodable(tmp_path: Path, body: bytes) -> None:
    kind: Kind = "video" if b"ftyp" in body else "image"
    with pytest.raises(Rejected) as refusal:
        inspected(tmp_path, body, kind)
    assert refusal.value.code == "undecodable"


@pytest.mark.parametrize(("width", "height"), [(320, 240), (241, 333), (2600, 260), (17, 2)])
def test_a_poster_is_a_jpeg_of_the_same_shape_and_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, height: int
) -> None:
    monkeypatch.setattr(inspection, "OWN_POSTER_BYTES", 0)
    poster = inspected(tmp_path, picture(width, height), "image").poster
    media = inspected(tmp_path, poster, "image").media
    assert max(media.width_pixels, media.height_pixels) <= POSTER_LONGEST_SIDE_PIXELS
    assert media.width_pixels / media.height_pixels == pytest.approx(width / height, rel=0.1, abs=0.6)


def test_a_picture_that_is_small_and_light_has_no_poster_beside_it(tmp_path: Path) -> None:
    light, heavy, long = picture(320, 240), picture(400, 240), picture_as("mjpeg", "yuvj420p", 1282, 16)
    assert len(light) <= inspection.OWN_POSTER_BYTES < len(heavy)
    posters = [inspected(tmp_path, body, "image").poster for body in (light, heavy, long)]
    assert [bool(poster) for poster in posters] == [False, True, True]


def test_a_clip_has_a_poster_however_small_it_is(tmp_path: Path) -> None:
    assert inspected(tmp_path, clip(), "video").poster
