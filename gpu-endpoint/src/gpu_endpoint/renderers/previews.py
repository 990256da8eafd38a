"""Preview pictures made small: what a phone shows while it waits, not what was paid for."""

import io
from typing import Final

from PIL import Image

LONGEST_SIDE_PIXELS: Final = 320
INTERVAL_SECONDS: Final = 1.0
MAX_BYTES: Final = 32 * 1024
_QUALITIES: Final = (70, 45, 20)


class UnusablePreview(Exception):
    """The bytes are no picture, or one that does not get small."""


def small_jpeg(picture: bytes) -> bytes:
    """A JPEG of at most 320 pixels a side and 32 KiB. Raises UnusablePreview."""
    try:
        with Image.open(io.BytesIO(picture), formats=("JPEG", "PNG")) as image:
            # A JPEG is decoded at about the wanted size, which is several times faster.
            image.draft("RGB", (LONGEST_SIDE_PIXELS, LONGEST_SIDE_PIXELS))
            return small_jpeg_of(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnusablePreview(type(error).__name__) from error


def small_jpeg_of(picture: Image.Image) -> bytes:
    """The same of an RGB picture."""
    small = picture.copy()
    small.thumbnail((LONGEST_SIDE_PIXELS, LONGEST_SIDE_PIXELS))
    for quality in _QUALITIES:
        encoded = io.BytesIO()
        small.save(encoded, "JPEG", quality=quality)
        if encoded.tell() <= MAX_BYTES:
            return encoded.getvalue()
    raise UnusablePreview("larger than allowed at any quality")
