"""Pictures as phones, cameras and editors write them: what a worker can render is taken, and the rest is explained."""

import io
import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from contracts.storage import REJECTION_SENTENCES, RejectionCode
from contracts.values import Kind
from storage import decoder_process
from storage.decoding import DecodeRequest, Inspection
from storage.errors import Rejected
from storage.inspection import inspect_upload
from tests.storage.unit.test_inspection import picture_as
from tests.support.media import clip, coded_clip, picture, png_with_chunk

ORIENTATION = (0x0112, 3, struct.pack("<H", 6))
RESOLUTION = 0x011A
WIDTH = 0x0100
NOISE = random.Random(5).randbytes(1_500_000)


def uploaded(directory: Path, body: bytes, kind: Kind = "image", max_pixels: int = 50_000_000) -> Inspection:
    path = directory / "upload"
    path.write_bytes(body)
    return inspect_upload(str(path), kind, max_pixels)


def refusal_of(directory: Path, body: bytes, kind: Kind = "image", max_pixels: int = 50_000_000) -> RejectionCode:
    with pytest.raises(Rejected) as refusal:
        uploaded(directory, body, kind, max_pixels)
    return refusal.value.code


def saved(*pictures: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": pictures[1:]} if pictures[1:] else {}
    pictures[0].save(buffer, form, **more, **options)
    return buffer.getvalue()


def noise(seed: int = 1, side: int = 64) -> Image.Image:
    return Image.frombytes("RGB", (side, side), random.Random(seed).randbytes(side * side * 3))


def photograph(*tags: tuple[int, int, bytes]) -> bytes:
    """A JPEG with these EXIF tags (number, type, value)."""
    offset = 8 + 2 + 12 * len(tags) + 4
    directory, data = struct.pack("<H", len(tags)), b""
    for number, kind, value in tags:
        count = len(value) if kind == 2 else 1
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", offset + len(data))
        directory += struct.pack("<HHI", number, kind, count) + place
        data += value if len(value) > 4 else b""
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory + bytes(4) + data
    plain = saved(noise(), form="JPEG")
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


@pytest.mark.parametrize(
    "odd",
    [
        (RESOLUTION, 10, struct.pack("<ii", -1, 0)),
        (RESOLUTION, 5, struct.pack("<II", 0, 0)),
        (RESOLUTION, 2, b"abc\0"),
        (RESOLUTION, 11, struct.pack("<f", float("nan"))),
        (WIDTH, 2, b"abc\0"),
        (0x8825, 2, b"abc\0"),
        (0x8769, 2, b"abc\0"),
    ],
    ids=["-1/0", "0/0", "text", "not a number", "width in words", "gps in words", "exif in words"],
)
def test_an_odd_exif_tag_is_no_reason_to_refuse(tmp_path: Path, odd: tuple[int, int, bytes]) -> None:
    media = uploaded(tmp_path, photograph(ORIENTATION, odd)).media
    assert (media.content_type, media.width_pixels) == ("image/jpeg", 64)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (b"iCCP", b"p\0\0" + zlib.compress(NOISE, 1)),
        (b"zTXt", b"k\0\0" + zlib.compress(NOISE, 1)),
        (b"iTXt", b"k\0\1\0\0\0" + zlib.compress(NOISE, 1)),
        (b"iTXt", b"k\0\0\0\0\0" + NOISE.hex().encode()),
        (b"tEXt", b"k\0" + NOISE.hex().encode()),
    ],
    ids=["ICC", "zTXt", "iTXt, packed", "iTXt", "tEXt"],
)
def test_a_picture_may_say_more_than_a_megabyte_about_itself(tmp_path: Path, name: bytes, data: bytes) -> None:
    assert uploaded(tmp_path, png_with_chunk(name, data)).media.width_pixels == 320


@pytest.mark.parametrize("form", ["JPEG", "progressive JPEG", "PNG"])
@pytest.mark.parametrize("missing", [1, 2, 4, 40])
def test_a_picture_may_lack_its_last_bytes(tmp_path: Path, form: str, missing: int) -> None:
    whole = picture() if form == "PNG" else saved(noise(side=256), form="JPEG", progressive=form.startswith("prog"))
    uploaded(tmp_path, whole[:-missing])


def photographs() -> list[bytes]:
    """In colour, in grey, and for print."""
    return [saved(noise(side=256).convert(mode), form="JPEG") for mode in ("RGB", "L", "CMYK")]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_picture_of_which_more_is_missing_is_refused(tmp_path: Path, share: float) -> None:
    for whole in (picture(), *photographs(), saved(noise(), form="WEBP")):
        assert refusal_of(tmp_path, whole[: int(len(whole) * share)]) == "undecodable"


def test_a_moving_picture_is_called_so(tmp_path: Path) -> None:
    frames = noise(1), noise(2), noise(3)
    for form in ("WEBP", "PNG"):
        assert refusal_of(tmp_path, saved(*frames, form=form)) == "animated"


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_pictures_behind_the_first_one_make_it_a_moving_one(tmp_path: Path, form: str) -> None:
    first, second = saved(noise(1), form=form), saved(noise(2), form=form)
    for body in (first + second, first + second + b"some words"):
        assert refusal_of(tmp_path, body) == "animated"
    for words in (b"s", bytes(100_000), random.Random(7).randbytes(100_000)):
        assert uploaded(tmp_path, first + words).media.width_pixels == 64


def test_a_photograph_with_a_second_picture_behind_it_does_not_move(tmp_path: Path) -> None:
    several = saved(noise(1), noise(2), form="MPO")
    assert uploaded(tmp_path, several).media.content_type == "image/jpeg"


@pytest.mark.parametrize(
    "body",
    [
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
        saved(noise(), form="AVIF"),
        saved(noise(), form="GIF"),
        saved(noise(), form="TIFF"),
    ],
    ids=["HEIC", "HEIF", "AVIF", "GIF", "TIFF"],
)
def test_a_format_that_is_not_read_is_named(tmp_path: Path, body: bytes) -> None:
    assert refusal_of(tmp_path, body) == "wrong_format"


def test_what_only_ffmpeg_reads_is_refused(tmp_path: Path) -> None:
    assert refusal_of(tmp_path, picture_as("ljpeg", "bgr24")) == "undecodable"


def test_a_picture_with_too_many_pixels_is_refused(tmp_path: Path) -> None:
    assert refusal_of(tmp_path, picture(), max_pixels=320 * 240 - 1) == "undecodable"


@pytest.mark.parametrize("container", ["mp4", "mov", "webm", "matroska"])
def test_a_clip_may_come_in_any_container(tmp_path: Path, container: str) -> None:
    codec = "libvpx" if container == "webm" else "libx264"
    assert uploaded(tmp_path, coded_clip(container, codec, "yuv420p"), "video").media.frames == 8


def test_a_clip_is_no_picture_and_a_picture_no_clip(tmp_path: Path) -> None:
    assert refusal_of(tmp_path, clip()) == "wrong_kind"
    assert refusal_of(tmp_path, picture(), "video") == "wrong_kind"


@pytest.mark.parametrize("error", [ZeroDivisionError(), struct.error(), TypeError(), RecursionError(), MemoryError()])
def test_whatever_a_parser_raises_is_the_answer_about_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = tmp_path / "upload"
    path.write_bytes(picture())

    def fail(*_: object, **__: object) -> None:
        raise error

    for parser in ("av.open", "PIL.Image.open"):
        with monkeypatch.context() as patch:
            patch.setattr(f"storage.inspection.{parser.replace('PIL.', '')}", fail)
            result = decoder_process._decode(DecodeRequest(str(path), "image", 1_000_000, is_input=True))
        assert result.code == "undecodable"
        assert type(error).__name__ in result.detail


def test_a_customer_reads_no_name_of_a_class() -> None:
    for sentence in REJECTION_SENTENCES.values():
        assert "Error" not in sentence
        assert sentence.endswith(".")
