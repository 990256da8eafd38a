"""What the stock ``worker-comfyui`` answers: files and errors, in the forms of its versions and of its forks.

``docs/stock-worker.md`` has a table of them. The rule: where a person would say "the picture is there", it is found.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

_FILE_LISTS: Final = ("images", "videos", "gifs")
_CLIPS: Final = frozenset({"mp4", "webm"})
_PICTURES: Final = frozenset({"png", "jpg", "jpeg", "webp"})
_MAGIC: Final = (
    (re.compile(rb"\x89PNG"), "png"),
    (re.compile(rb"\xff\xd8\xff"), "jpg"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
    (re.compile(rb"....ftyp", re.DOTALL), "mp4"),
    (re.compile(rb"\x1aE\xdf\xa3"), "webm"),
)
_HEAD_CHARACTERS: Final = 256
_URL_SAFE: Final = str.maketrans("-_", "+/", " \t\r\n")

_USER_FAULTS: Final = re.compile(
    r"cannot identify image file|image file is truncated|broken data stream|unrecognized data stream contents"
    r"|decompression ?bomb",
    re.IGNORECASE,
)
"""What Pillow says of a picture that cannot be read: only another picture helps."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file in an answer: ``data`` is base64, perhaps as a data URI, or a URL."""

    filename: str
    is_url: bool
    data: str

    @property
    def extension(self) -> str | None:
        """By its name, its address, its media type or its first bytes, in this order. None if nothing says it."""
        for name in (self.filename, self.data.partition("?")[0] if self.is_url else ""):
            suffix = name.rpartition(".")[2].lower()
            if suffix in _PICTURES | _CLIPS:
                return suffix
        if self.is_url:
            return None
        media_type = re.match(r"data:(?:image|video)/([a-z0-9]+)", self.data)
        return media_type[1] if media_type else _extension_of_bytes(self.data)


def normal_base64(data: str) -> str:
    """The digits of base64 or of a data URI, in the usual alphabet and padded, without spaces and line breaks."""
    digits = (data.partition(",")[2] if data.startswith("data:") else data).translate(_URL_SAFE).rstrip("=")
    return digits + "=" * (-len(digits) % 4)


def find_file(output: Any, wanted_extension: str) -> FoundFile | None:
    """The file that was ordered, among those of an answer: best of the wanted type, else of its kind."""
    same_kind = _CLIPS if wanted_extension in _CLIPS else _PICTURES
    found = [(file, file.extension) for file in _files(output)]
    for fits in ({wanted_extension}, same_kind, {None}):
        for file, extension in found:
            if extension in fits:
                return file
    return None


def find_error(output: Any) -> str:
    """What an answer calls an error, with its details. Empty if it calls nothing so."""
    if not isinstance(output, Mapping):
        return ""
    told = [output.get(name) for name in ("error", "errors", "details")]
    if output.get("status") == "error":
        told.append(output.get("message"))
    words = [value if isinstance(value, str) else msgspec.json.encode(value).decode() for value in told if value]
    return "; ".join(words)


def is_user_fault(message: str) -> bool:
    """Whether the worker says that the user's picture is broken."""
    return _USER_FAULTS.search(message) is not None


def _files(output: Any) -> Iterator[FoundFile]:
    """Every file of an answer: in its lists, in a list that stands alone, or in the ``message`` of old versions."""
    if isinstance(output, list):
        for item in output:
            yield from _files(item)
    elif isinstance(output, str):
        if (file := _bare(output)) is not None:
            yield file
    elif isinstance(output, Mapping):
        if isinstance(data := output.get("data"), str):
            filename = output.get("filename")
            filename = filename if isinstance(filename, str) else ""
            is_url = output.get("type") == "s3_url" or data.startswith(("https://", "http://"))
            yield FoundFile(filename, is_url, data)
        elif output.get("status") != "error" and isinstance(message := output.get("message"), str):
            yield from _files(message)
        for name in _FILE_LISTS:
            if isinstance(files := output.get(name), list):
                yield from _files(files)


def _bare(text: str) -> FoundFile | None:
    """A text that is a file, and no words."""
    if text.startswith(("https://", "http://")):
        return FoundFile("", True, text)
    file = FoundFile("", False, text)
    return file if file.extension is not None else None


def _extension_of_bytes(data: str) -> str | None:
    head = normal_base64(data[:_HEAD_CHARACTERS])
    try:
        content = base64.b64decode(head[: len(head) // 4 * 4 - 4], validate=True)
    except (binascii.Error, ValueError):
        return None
    return next((extension for magic, extension in _MAGIC if magic.match(content)), None)
