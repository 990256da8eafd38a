"""Where files lie in the buckets that more than one service uses, how large an upload may be, and how long it stays."""

from datetime import timedelta
from typing import Final
from uuid import UUID

MAX_UPLOAD_BYTES: Final = 20 * 1024 * 1024
"""The largest file that a user may upload: more than any camera phone makes."""

UPLOADS_KEPT_FOR: Final = timedelta(days=30)
"""Then a rule of the bucket ``uploads`` removes them."""


def output_key(generation_id: UUID, attempt_number: int, extension: str) -> str:
    """Where the worker of one attempt puts its file, in the bucket ``incoming``."""
    return f"{generation_id}/{attempt_number}/output.{extension}"


def upload_key(user_id: UUID, upload_id: UUID) -> str:
    """Where a user's upload lies, in the bucket ``uploads``. A user cannot name a file of another user."""
    return f"{user_id}/{upload_id}"
