"""Which container a file is, by its own words: the brand of an ISO file (``ftyp``), the DocType of an EBML file.

A demuxer reads whole families of containers and says of none which member it is.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from contracts.values import Kind
from storage.errors import Rejected

_HEAD_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Container:
    """A container that can be read. ``name`` is the extension that the catalogue orders it by."""

    name: str
    demuxer: str
    content_type: str
    kind: Kind


_READABLE: Final = {
    one.name: one
    for one in (
        Container("mp4", "mp4", "video/mp4", "video"),
        Container("mov", "mp4", "video/quicktime", "video"),
        Container("webm", "matroska", "video/webm", "video"),
        Container("mkv", "matroska", "video/x-matroska", "video"),
        Container("png", "png_pipe", "image/png", "image"),
        Container("jpg", "jpeg_pipe", "image/jpeg", "image"),
        Container("webp", "webp_pipe", "image/webp", "image"),
    )
}
_SIGNATURES: Final = (
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpg"),
    (8, b"WEBP", "webp"),
    (0, b"GIF8", "gif"),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
    (0, b"8BPS", "psd"),
    (0, b"\0\0\0\x0cJXL ", "jxl"),
    (0, b"\xff\x0a", "jxl"),
    (8, b"AVI ", "avi"),
    (0, b"FLV\1", "flv"),
)
_BRANDS: Final = {
    **dict.fromkeys((b"avif", b"avis"), "avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "heic"),
    **dict.fromkeys((b"M4A ", b"M4B ", b"M4P "), "m4a"),
    b"qt  ": "mov",
}
"""Every other brand is a profile of MP4."""
_DOC_TYPES: Final = {b"webm": "webm", b"matroska": "mkv"}

_EBML: Final = b"\x1a\x45\xdf\xa3"
_DOC_TYPE: Final = b"\x42\x82"


def detect_container(path: Path) -> Container:
    """Raises ``Rejected``: the file is of no known format, or of one that is not read here."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    name = _name(head)
    if name is None:
        raise Rejected("undecodable", "the file is neither a picture nor a video of a known format")
    if name not in _READABLE:
        raise Rejected("wrong_format", f"the file is {name}")
    return _READABLE[name]


def check_is_whole(path: Path, container: Container) -> None:
    """Raise ``Rejected`` if the file ends inside one of its outermost parts.

    A file that is cut between two frames decodes without any error, and no index of a fragmented MP4 or of a WebM
    says how many frames there should be. The outermost boxes (or the segment) say how many bytes there should be.
    """
    size = os.path.getsize(path)
    with path.open("rb") as file:
        if container.demuxer == "mp4":
            end = _end_of_boxes(file, size)
        elif container.demuxer == "matroska":
            end = _end_of_segments(file, size)
        else:
            return
    if end > size:
        raise Rejected("undecodable", f"the file is truncated: {size} of at least {end} bytes")


def _name(head: bytes) -> str | None:
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "mp4")
    if head.startswith(_EBML):
        return _DOC_TYPES.get(_doc_type(head))
    for offset, signature, name in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return name
    return None


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Where the last box of an ISO file ends, by its own words. Bytes that are no box are padding."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        head = file.read(16)
        length, name = int.from_bytes(head[:4]), head[4:8]
        if not name.isalnum():
            break
        if length == 1:
            length = int.from_bytes(head[8:16])
        elif length == 0:
            # The last box may say that it goes to the end of the file.
            break
        if length < 8:
            break
        position += length
    return position


def _end_of_segments(file: BinaryIO, size: int) -> int:
    """Where the last outermost element of an EBML file ends, by its own words. A live stream states no size."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(12)
        id_length = _length_of_number(head)
        element = _number(head[id_length:])
        if id_length > 4 or element is None:
            break
        length, width = element
        position += id_length + width + length
    return position


def _doc_type(head: bytes) -> bytes:
    """The DocType of an EBML header; by the standard it is matroska where none is stated."""
    header = _number(head[len(_EBML) :])
    if header is None:
        return b""
    position = len(_EBML) + header[1]
    end = min(position + header[0], len(head))
    while position < end:
        id_length = _length_of_number(head[position:])
        element = _number(head[position + id_length :])
        if element is None:
            break
        start = position + id_length + element[1]
        if head[position : position + id_length] == _DOC_TYPE:
            return head[start : start + element[0]].rstrip(b"\0")
        position = start + element[0]
    return b"matroska"


def _length_of_number(data: bytes) -> int:
    """How many bytes an EBML number takes: one more than the zero bits that it begins with. 9 if it is none."""
    return 9 - data[0].bit_length() if data else 9


def _number(data: bytes) -> tuple[int, int] | None:
    """An EBML number and its width in bytes; None if there is none, or it says "unknown"."""
    width = _length_of_number(data)
    if width > 8 or len(data) < width:
        return None
    bits = 7 * width
    value = int.from_bytes(data[:width]) & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else (value, width)
