"""What the service and its decoder processes say to each other. The service itself never loads a decoder."""

from typing import Final

import msgspec

from contracts.storage import RejectionCode
from contracts.values import Kind, MediaProperties

READY: Final = b"\n"
"""What a decoder says when it has started."""
LENGTH_BYTES: Final = 4
"""Every answer is preceded by its length, most significant byte first."""


class Question(msgspec.Struct, frozen=True):
    """One file to decode, as a line of JSON. ``is_input``: a worker will have to read it, too."""

    path: str
    kind: Kind
    largest_pixels: int
    is_input: bool = False


class Inspection(msgspec.Struct, frozen=True):
    """What a file turned out to be, and a still picture of it (JPEG)."""

    media: MediaProperties
    poster: bytes


class Answer(msgspec.Struct, frozen=True):
    """Either what the file is, or why it is refused."""

    inspection: Inspection | None = None
    code: RejectionCode | None = None
    detail: str = ""
