"""The mark on files of every kind, as a C2PA reader reads it."""

import asyncio
import io
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from contracts.storage import DIGITAL_SOURCE_TYPE
from local_platform.marks import Mark, mark_of
from storage.errors import Unmarkable
from storage.inspection import inspect
from storage.marking import Marker
from storage.signing import signer_of
from storage.xmp import PACKET
from tests.storage.unit.test_signing import CREDENTIALS, GIVEN, settings
from tests.support.media import clip, coded_clip, frames_of, picture

GOOD = Mark("Trusted", "c2pa.created", DIGITAL_SOURCE_TYPE)
MEDIA_TYPES = {"mp4": "video/mp4", "png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}


def saved(form: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture())).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


FRAGMENTED = coded_clip("mp4", "libx264", "yuv420p", options={"movflags": "frag_keyframe+empty_moov+default_base_moof"})
FILES = {
    "mp4": ("mp4", clip()),
    "mp4 with its index at the end": ("mp4", clip(index_in_front=False)),
    "mp4 in fragments": ("mp4", FRAGMENTED),
    "mp4 with bytes behind it": ("mp4", clip() + b"\0" * 7),
    "png": ("png", picture()),
    "jpeg": ("jpg", saved("JPEG")),
    "jpeg with exif": ("jpg", saved("JPEG", exif=Image.Exif())),
    "webp": ("webp", saved("WEBP")),
    "webp without loss": ("webp", saved("WEBP", lossless=True)),
    "webp with alpha": ("webp", saved("WEBP", mode="RGBA", exact=True, lossless=True)),
    "webp with xmp": ("webp", saved("WEBP", xmp=b"<another/>")),
}


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Name and data of each chunk, whose checksum is right."""
    found, at = [], 8
    while at < len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4])
        assert zlib.crc32(png[at + 4 : end]) == int.from_bytes(png[end : end + 4])
        found.append((png[at + 4 : at + 8], png[at + 8 : end]))
        at = end + 4
    return found


def sign(claim: bytes) -> bytes:
    """What the service does for its decoders."""
    signer = signer_of(settings(**GIVEN))
    assert signer is not None
    return asyncio.run(signer.sign(claim))


@pytest.fixture
def mark(tmp_path: Path) -> Callable[[bytes, str], bytes]:
    marker = Marker(CREDENTIALS.certificates, sign)

    def marked(body: bytes, container: str) -> bytes:
        (tmp_path / "file").write_bytes(body)
        marker.mark(tmp_path / "file", container, tmp_path / "marked")
        return (tmp_path / "marked").read_bytes()

    return marked


@pytest.mark.parametrize("case", FILES)
def test_a_marked_file_is_valid_and_shows_the_same_frames(mark: Callable[[bytes, str], bytes], case: str) -> None:
    container, body = FILES[case]
    marked = mark(body, container)
    assert mark_of(marked, MEDIA_TYPES[container], CREDENTIALS.root) == GOOD
    assert marked.count(PACKET) == 1
    assert b"<another/>" not in marked
    assert frames_of(marked) == frames_of(body)


@pytest.mark.parametrize("case", ["mp4", "png", "jpeg", "webp"])
def test_a_file_that_is_marked_already_has_one_mark_in_the_end(mark: Callable[[bytes, str], bytes], case: str) -> None:
    container, body = FILES[case]
    twice = mark(mark(body, container), container)
    assert mark_of(twice, MEDIA_TYPES[container], CREDENTIALS.root) == GOOD
    if container != "mp4":  # The old packet of a clip is free space.
        assert twice.count(PACKET) == 1


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_pillow_reads_the_source_type_of_a_picture(mark: Callable[[bytes, str], bytes], form: str) -> None:
    container = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}[form]
    with Image.open(io.BytesIO(mark(saved(form), container))) as opened:
        xmp = opened.info["xmp"]
    assert DIGITAL_SOURCE_TYPE.encode() in (xmp if isinstance(xmp, bytes) else xmp.encode())


def test_a_marked_png_has_its_pixels_in_one_chunk(mark: Callable[[bytes, str], bytes]) -> None:
    """The library goes through all chunks several times: with one it takes 1.5 ms less for a picture of 200 kB."""
    before, after = chunks(picture()), chunks(mark(picture(), "png"))
    pixels = [data for name, data in before if name == b"IDAT"]
    assert len(pixels) > 50
    assert [data for name, data in after if name == b"IDAT"] == [b"".join(pixels)]
    assert [name for name, _ in after] == [b"IHDR", b"caBX", b"iTXt", b"pHYs", b"IDAT", b"IEND"]


def test_pixels_with_a_wrong_checksum_get_no_right_one(mark: Callable[[bytes, str], bytes]) -> None:
    damaged = bytearray(picture())
    last = damaged.rindex(b"IDAT")
    damaged[last + 5] ^= 1
    with pytest.raises(Unmarkable, match="checksum"):
        mark(bytes(damaged), "png")


def test_one_changed_byte_makes_a_mark_invalid(mark: Callable[[bytes, str], bytes]) -> None:
    marked = bytearray(mark(clip(), "mp4"))
    marked[marked.index(b"mdat") + 100] ^= 1
    changed = mark_of(bytes(marked), "video/mp4", CREDENTIALS.root)
    assert changed is not None
    assert changed.state == "Invalid"


def test_a_copy_that_was_encoded_again_has_no_mark(mark: Callable[[bytes, str], bytes]) -> None:
    copy = io.BytesIO()
    Image.open(io.BytesIO(mark(picture(), "png"))).convert("RGB").save(copy, "JPEG")
    assert mark_of(copy.getvalue(), "image/jpeg") is None


def test_a_long_clip_is_hashed_in_blocks_and_valid(
    mark: Callable[[bytes, str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.marking._BLOCKS_FROM_BYTES", 1000)
    assert mark_of(mark(clip(), "mp4"), "video/mp4", CREDENTIALS.root) == GOOD
    in_two_boxes = clip() + b"\0\0\0\x20mdat" + b"\0" * 24
    for body in (FRAGMENTED, in_two_boxes):
        assert mark_of(mark(body, "mp4"), "video/mp4", CREDENTIALS.root) == GOOD


def test_a_last_box_to_the_end_of_the_file_gets_a_size(mark: Callable[[bytes, str], bytes], tmp_path: Path) -> None:
    body = clip()
    at = body.index(b"mdat") - 4
    assert struct.unpack_from(">I", body, at)[0] == len(body) - at, "mdat is the last box"
    open_ended = body[:at] + b"\0\0\0\0" + body[at + 4 :]
    marked = mark(open_ended, "mp4")
    assert mark_of(marked, "video/mp4", CREDENTIALS.root) == GOOD
    (tmp_path / "clip.mp4").write_bytes(marked)
    assert inspect(str(tmp_path / "clip.mp4"), "video", 10**6).media.frames == 16


def test_a_damaged_file_is_marked_validly_or_not_at_all(mark: Callable[[bytes, str], bytes]) -> None:
    """Bytes are changed where the structure of a file is: at its beginning, and at the end of a clip."""
    chance, outcomes = random.Random(20261127), Counter[str]()
    for _ in range(25):
        container, body = FILES[chance.choice(("mp4 with its index at the end", "png", "jpeg", "webp"))]
        damaged = bytearray(body)
        for _ in range(chance.choice((1, 2, 8))):
            place = chance.randrange(600)
            damaged[-place if container == "mp4" and chance.random() < 0.5 else place] = chance.randrange(256)
        try:
            marked = mark(bytes(damaged), container)
        except Unmarkable:
            outcomes["unmarkable"] += 1
        else:
            assert mark_of(marked, MEDIA_TYPES[container], CREDENTIALS.root) == GOOD
            outcomes["marked"] += 1
    assert set(outcomes) == {"unmarkable", "marked"}


HOSTILE = {
    "a clip that begins in the middle of a box": ("mp4", b"\0\0\0\x05ftypisom" + b"\0" * 100),
    "a clip whose box is larger than the file": ("mp4", clip()[:-10]),
    "a picture without an end": ("png", picture()[:-20]),
    "a picture with a chunk of four gigabytes": ("png", picture()[:8] + b"\xff\xff\xff\xffIDAT" + b"\0" * 100),
    "a photograph that is all marker": ("jpg", b"\xff\xd8" + b"\xff" * 1000),
    "a photograph that ends in a segment": ("jpg", b"\xff\xd8\xff\xe0\xff\xff"),
    "a webp of an unknown kind": ("webp", b"RIFF\0\0\0\0WEBPWHAT" + b"\0" * 100),
    "a webp with a chunk of four gigabytes": ("webp", saved("WEBP")[:12] + b"VP8L\xff\xff\xff\xff" + b"\0" * 40),
    "webm": ("webm", coded_clip("webm", "libvpx-vp9", "yuv420p")),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_marked_is_said_so(mark: Callable[[bytes, str], bytes], case: str) -> None:
    container, body = HOSTILE[case]
    with pytest.raises(Unmarkable):
        mark(body, container)
