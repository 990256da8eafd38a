"""The protocol between the service and its decoder processes. The service itself never loads a decoder."""

from typing import Final

import msgspec

from contracts.storage import RejectionCode
from contracts.values import Kind, MediaProperties

READY: Final = b"\n"
"""A decoder writes this once it has started."""
LENGTH_BYTES: Final = 4
"""Each result is preceded by its length, most significant byte first."""


class DecodeRequest(msgspec.Struct, frozen=True):
    """One file to decode, as a line of JSON. ``is_input``: a user's file, which a GPU worker is to read."""

    path: str
    kind: Kind
    max_pixels: int
    is_input: bool = False


class Inspection(msgspec.Struct, frozen=True):
    """The measured properties of a file. An output has a still picture of it, too (JPEG).

    ``container`` is the extension that the catalogue orders it by, ``pixel_format`` is FFmpeg's name, and
    ``color_transfer`` the number of ITU-T H.273 (table 3).
    """

    media: MediaProperties
    container: str
    pixel_format: str = ""
    color_transfer: int = 2
    audio_codecs: tuple[str, ...] = ()
    poster: bytes = b""


class DecodeResult(msgspec.Struct, frozen=True):
    """Either the inspection of the file, or the reason why the file is rejected."""

    inspection: Inspection | None = None
    code: RejectionCode | None = None
    detail: str = ""
