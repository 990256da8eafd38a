"""Where files lie in the buckets that more than one service uses, how large an upload may be, and how long it stays."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from uuid import UUID

MAX_UPLOAD_BYTES: Final = 20 * 1024 * 1024
"""The largest file that a user may upload: more than any camera phone makes."""

UPLOADS_KEPT_FOR: Final = timedelta(days=30)
"""Then a rule of the bucket ``uploads`` removes them."""


POSTER: Final = "poster-"
THUMBNAIL: Final = "thumbnail-"
ANIMATED_PREVIEW: Final = "animated-"
MADE_FROM_OUTPUT: Final = (POSTER, THUMBNAIL, ANIMATED_PREVIEW)
"""How the names of files begin that storage makes from an output, beside it in the bucket ``library``.

The checksum of the output follows: so each belongs to its output when two attempts race, and is written once.
"""


EXTENSIONS: Final[Mapping[str, str]] = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "video/mp4": "mp4",
    "video/webm": "webm",
}
"""How the name of an output ends, by its content type. Its key ends as was ordered, whatever type of picture came."""


def output_key(generation_id: UUID, attempt_number: int, extension: str) -> str:
    """Where the worker of one attempt puts its file, in the bucket ``incoming``."""
    return f"{generation_id}/{attempt_number}/output.{extension}"


def upload_key(user_id: UUID, upload_id: UUID) -> str:
    """Where a user's upload lies, in the bucket ``uploads``. A user cannot name a file of another user."""
    return f"{user_id}/{upload_id}"


def library_folder(user_id: UUID, generation_id: UUID) -> str:
    """What the key of every file of a generation begins with, in the bucket ``library``."""
    return f"{user_id}/{generation_id}/"


def poster_key(user_id: UUID, generation_id: UUID, output_sha256: str) -> str:
    """The key of an output's still picture, unless the output is a small picture itself."""
    return f"{library_folder(user_id, generation_id)}{POSTER}{output_sha256[:16]}.jpg"


def thumbnail_key(user_id: UUID, generation_id: UUID, output_sha256: str, longest_side_pixels: int) -> str:
    """The key of an output's thumbnail of this size."""
    return f"{library_folder(user_id, generation_id)}{THUMBNAIL}{output_sha256[:16]}-{longest_side_pixels}.webp"


def animated_preview_key(user_id: UUID, generation_id: UUID, output_sha256: str) -> str:
    """The key of a clip's animated preview."""
    return f"{library_folder(user_id, generation_id)}{ANIMATED_PREVIEW}{output_sha256[:16]}.webp"
