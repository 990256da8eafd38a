"""Opening a user's picture within bounds, as tolerantly as ComfyUI does."""

import contextlib
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from PIL import ExifTags, Image, ImageFile

from gpu_endpoint.failures import InvalidInput

MAX_PICTURE_PIXELS: Final = 64_000_000
_BEGINNING: Final = re.compile(rb"\x89PNG\r\n\x1a\n|RIFF.{4}WEBP", re.DOTALL)
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@contextlib.contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """The picture, its pixels not yet decoded. Raises InvalidInput if it is none, or too large, in the block, too."""
    # Storage takes pictures that lack their last bytes, or say megabytes about themselves, because ComfyUI reads them.
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        with Image.open(path) as picture:
            _check_size(path, picture)
            yield picture
    except InvalidInput:
        raise
    except Exception as error:
        # A file from outside makes Pillow raise anything: that is an answer about the file.
        raise InvalidInput(f"{path.name} is not a readable picture") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _check_size(path: Path, picture: Image.Image) -> None:
    if picture.width * picture.height > MAX_PICTURE_PIXELS:
        raise InvalidInput(f"the picture {path.name} has more than {MAX_PICTURE_PIXELS} pixels")


def keep_first_picture(path: Path) -> None:
    """Leave a file of one picture as it is, and of several only the first one. Raises InvalidInput.

    ComfyUI loads all of them: the frames that Pillow counts, and the PNG or WebP pictures that lie behind the first.
    Each would take as much memory as one, and a workflow would run for all of them.
    """
    with opened_picture(path) as picture:
        if getattr(picture, "n_frames", 1) == 1 and not _others_lie_behind(path):
            return
        first = upright(picture).convert("RGB")
    alone = path.with_name(f"{path.name}.alone")
    first.save(alone, "PNG", compress_level=1)
    os.replace(alone, path)


def _others_lie_behind(path: Path) -> bool:
    """Whether another picture may begin in the file: FFmpeg looks for it everywhere."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _BEGINNING.search(content, 1) is not None


def upright(picture: Image.Image) -> Image.Image:
    """The picture as its EXIF turns it. Other tags are left alone: cameras write some that nobody can read."""
    orientation = picture.getexif().get(ExifTags.Base.Orientation)
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return picture if turn is None else picture.transpose(turn)
