"""Opening a user's picture within bounds."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from PIL import Image

from gpu_endpoint.failures import InvalidInput

MAX_PICTURE_PIXELS: Final = 64_000_000


@contextlib.contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """The picture, its pixels not yet decoded. Raises InvalidInput if it is none, or too large, in the block, too."""
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PICTURE_PIXELS:
                raise InvalidInput(f"the picture {path.name} has more than {MAX_PICTURE_PIXELS} pixels")
            yield picture
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow's way of saying that a file is broken differs from format to format.
        raise InvalidInput(f"{path.name} is not a readable picture") from error
