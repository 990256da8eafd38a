"""JSON of strangers, field by field: one that cannot be read takes none of the others with it."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

import msgspec

T = TypeVar("T")

PlainWord = Annotated[str, msgspec.Meta(pattern=r"^[\x20-\x7e]{1,200}\Z")]
"""What the database, our messages and an address can certainly carry."""
LARGEST_INTEGER: Final = 2**62
UNREADABLE: Final[tuple[type[Exception], ...]] = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of bytes that are not JSON, not UTF-8, or nested too deep."""
_Fields = dict[str, msgspec.Raw]


def read_fields(body: bytes | msgspec.Raw) -> Mapping[str, msgspec.Raw] | None:
    """The fields of an object, unread. None if the body is no object, or is nested too deep.

    A body that is no strict JSON (a lone surrogate, NaN, bytes that are not UTF-8) is read as leniently as Python
    reads it.
    """
    fields: _Fields | None = read(body, _Fields)
    return fields


def read(body: bytes | msgspec.Raw, kind: type[T] | Any) -> Any:
    """The value, or None where the bytes are something else: the caller then tries another shape."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError:
        return None
    except UNREADABLE:
        pass
    try:
        lenient = json.loads(bytes(body).decode(errors="replace").removeprefix("\ufeff"), parse_constant=lambda _: None)
        # What cannot be encoded (a lone surrogate) is replaced, so that every text can be stored.
        return msgspec.json.decode(json.dumps(lenient, ensure_ascii=False).encode(errors="replace"), type=kind)
    except (ValueError, RecursionError):
        return None


def word(raw: msgspec.Raw | None) -> str | None:
    """A short text of plain characters, or a whole number as its digits. None for anything else."""
    value = None if raw is None else read(raw, Any)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) <= LARGEST_INTEGER else None
    try:
        return msgspec.convert(value, PlainWord)
    except msgspec.ValidationError:
        return None


def number(raw: msgspec.Raw | None, most: int = LARGEST_INTEGER) -> int | None:
    """A number from 0 to ``most``, rounded, or a text of one. None for anything else."""
    value = None if raw is None else read(raw, Any)
    if isinstance(value, str) and value.isascii() and len(value) <= 20:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # A NaN is between no bounds.
    return round(value) if 0 <= value <= most else None
