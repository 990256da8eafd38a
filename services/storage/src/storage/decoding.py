"""The protocol between the service and its decoder processes. The service itself never loads a decoder."""

from typing import Final, Literal, TypeAlias

import msgspec

from contracts.storage import RejectionCode
from contracts.values import Kind, MediaProperties

READY: Final = b"\n"
"""A decoder writes this once it has started."""
BACKGROUND: Final = "--background"
"""The argument of a decoder whose work nobody waits for."""
LENGTH_BYTES: Final = 4
"""Each result is preceded by its length, most significant byte first."""


PreviewRole: TypeAlias = Literal["thumbnail", "animated"]


class Marking(msgspec.Struct, frozen=True):
    """How to mark an output: the certificates of the signing key, and where the marked file goes.

    Without ``marked_path`` only the poster is marked: the file is marked already.
    """

    certificates: str
    marked_path: str | None = None


class DecodeRequest(msgspec.Struct, frozen=True):
    """One file to decode, as a line of JSON. ``is_input``: a user's file, which a GPU worker is to read.

    ``previews``: an output of which small pictures are to be made.
    """

    path: str
    kind: Kind
    max_pixels: int
    is_input: bool = False
    marking: Marking | None = None
    previews: bool = False


class Signature(msgspec.Struct, frozen=True):
    """What the service answers to ``to_sign``, as a line of JSON. Empty: there is no signature."""

    signature: bytes


class Inspection(msgspec.Struct, frozen=True):
    """The measured properties of a file. An output has a still picture of it, too (JPEG), unless it is a small one.

    ``container`` is the extension that the catalogue orders it by, ``pixel_format`` is FFmpeg's name, and
    ``color_transfer`` the number of ITU-T H.273 (table 3). ``most_frames_in_a_second`` is of a clip, anywhere in it.
    """

    media: MediaProperties
    container: str
    pixel_format: str = ""
    color_transfer: int = 2
    audio_codecs: tuple[str, ...] = ()
    poster: bytes = b""
    most_frames_in_a_second: int = 0


class RenderedPreview(msgspec.Struct, frozen=True):
    """A small picture of an output (WebP)."""

    role: PreviewRole
    width_pixels: int
    height_pixels: int
    body: bytes


class DecodeResult(msgspec.Struct, frozen=True):
    """The inspection or the previews of the file, why it is rejected, or a claim to sign before there is a result.

    With ``unmarkable`` the file itself is good. With ``no_space`` there is no result, because the disk is full.
    """

    inspection: Inspection | None = None
    previews: tuple[RenderedPreview, ...] | None = None
    code: RejectionCode | None = None
    detail: str = ""
    unmarkable: bool = False
    no_space: bool = False
    to_sign: bytes | None = None
