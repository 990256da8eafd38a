"""A file of several pictures becomes its first one; a file of one is left alone."""

import io
from pathlib import Path

import pytest
from PIL import Image

from gpu_endpoint.pictures import keep_first_picture

COLOURS = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
TURNED = 6
"""An orientation that makes the height the width."""


def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (16, 8), colour) for colour in COLOURS]


def saved(form: str) -> list[bytes]:
    files = []
    for picture in pictures():
        encoded = io.BytesIO()
        picture.save(encoded, form)
        files.append(encoded.getvalue())
    return files


def moving(form: str, **options: object) -> bytes:
    encoded = io.BytesIO()
    first, *others = pictures()
    first.save(encoded, form, save_all=True, append_images=others, **options)
    return encoded.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = TURNED
    return exif


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (b"".join(saved("PNG")), (16, 8)),
        (b"".join(saved("WEBP")), (16, 8)),
        (saved("PNG")[0] + b"some words" + saved("PNG")[1], (16, 8)),
        (moving("PNG"), (16, 8)),
        (moving("WEBP"), (16, 8)),
        (moving("MPO"), (16, 8)),
        (moving("MPO", exif=turned()), (8, 16)),
    ],
    ids=["PNGs", "WebPs", "PNGs and words", "a moving PNG", "a moving WebP", "photographs", "turned photographs"],
)
def test_of_several_pictures_the_first_one_stays(tmp_path: Path, content: bytes, size: tuple[int, int]) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    keep_first_picture(path)
    with Image.open(path) as picture:
        assert (picture.format, picture.size, getattr(picture, "n_frames", 1)) == ("PNG", size, 1)
        red, green, blue = picture.resize((1, 1)).tobytes()
        assert red > 190
        assert max(green, blue) < 10
    assert path.read_bytes().count(b"\x89PNG") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["image.png"]


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
def test_one_picture_is_left_as_it_is(tmp_path: Path, form: str) -> None:
    content = saved(form)[0] + b"some words"
    path = tmp_path / "image.png"
    path.write_bytes(content)
    keep_first_picture(path)
    assert path.read_bytes() == content
