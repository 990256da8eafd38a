"""Comparing the library with the books. Pure: no input, no output."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias
from uuid import UUID

from auditor.domain import Severity, Violation
from contracts.object_keys import MADE_FROM_OUTPUT

FILES_DIFFER_CODE: Final = "library_files_are_as_recorded"
STRANGERS_CODE: Final = "library_files_have_an_order"
SEVERITIES: Final[dict[str, Severity]] = {FILES_DIFFER_CODE: "critical", STRANGERS_CODE: "warning"}
"""Two invariants that are no queries: reading the library proves them."""

Kind: TypeAlias = Literal["missing", "size", "checksum", "unknown", "undeleted"]
"""How a file differs: it is not there, it has another size, other content, no order knows it, or it was deleted."""
KINDS: Final[tuple[Kind, ...]] = ("missing", "size", "checksum", "unknown", "undeleted")

CLOCKS_DIFFER: Final = timedelta(hours=1)
"""An object that changed this much later than it was recorded was written again, whatever the clocks say."""


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """A file that storage has recorded. Of a poster the books have neither size nor checksum.

    ``is_deleted``: its user has deleted it. ``deleted_at`` is when it was gone, None while it is under way.
    """

    object_key: str
    size_bytes: int | None
    sha256: str | None
    stored_at: datetime
    is_deleted: bool = False
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file as it was measured. ``sha256`` is None if its size alone said enough, or if it could not be read whole.

    ``own_sha256`` is what storage wrote beside the object, and what an object has that somebody else wrote.
    """

    size_bytes: int
    sha256: str | None
    own_sha256: str | None


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object as a listing of the bucket has it."""

    object_key: str
    size_bytes: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class ListedPage:
    """A part of a listing, in the order of the keys. ``is_last``: behind its objects there are no others."""

    objects: Sequence[ListedObject]
    is_last: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """How a file differs, with both sides."""

    kind: Kind
    expected: str
    found: str

    def violation(self, object_key: str) -> Violation:
        """The finding about this file."""
        code = STRANGERS_CODE if self.kind == "unknown" else FILES_DIFFER_CODE
        return Violation(code, SEVERITIES[code], object_key, self.expected, self.found)


def compare(recorded: RecordedFile, found: FoundFile | None) -> Difference | None:
    """How the file in the library differs from what is recorded; None if it does not.

    A poster is compared with the checksum that storage wrote beside it. A file that its user deleted must be gone.
    """
    if recorded.is_deleted:
        if found is None or recorded.deleted_at is None:
            return None
        gone = f"no file: its user deleted it, and it was gone at {recorded.deleted_at:%Y-%m-%d %H:%M:%S}Z"
        return Difference("undeleted", gone, f"{found.size_bytes} bytes")
    if found is None:
        return Difference("missing", f"the file that was stored at {recorded.stored_at:%Y-%m-%d %H:%M:%S}Z", "none")
    if recorded.size_bytes is not None and found.size_bytes != recorded.size_bytes:
        return Difference("size", f"{recorded.size_bytes} bytes", f"{found.size_bytes} bytes")
    expected = recorded.sha256 or found.own_sha256
    if expected is None:
        return Difference("checksum", "the checksum that storage writes beside each object", "none")
    if found.sha256 != expected:
        return Difference("checksum", f"sha256 {expected}", f"sha256 {found.sha256 or 'of a file that is encoded'}")
    return None


def is_suspect(recorded: RecordedFile, listed: ListedObject) -> bool:
    """Whether the listing alone says that the object may have changed since it was recorded, or was to be gone."""
    return (
        (recorded.deleted_at is not None)
        or (recorded.size_bytes is not None and listed.size_bytes != recorded.size_bytes)
        or listed.modified_at > recorded.stored_at + CLOCKS_DIFFER
    )


def unknown(listed: ListedObject) -> Difference:
    """The object is in the library, and no order has it."""
    changed = f"{listed.modified_at:%Y-%m-%d %H:%M:%S}Z"
    return Difference("unknown", "an order that has this file", f"none; {listed.size_bytes} bytes, written {changed}")


def find_generation(object_key: str) -> UUID | None:
    """The generation that a key of the library names: ``{user}/{generation}/…``."""
    parts = object_key.split("/")
    try:
        return UUID(parts[1]) if len(parts) == 3 else None
    except ValueError:
        return None


def is_left_over(object_key: str, outputs: Sequence[str]) -> bool:
    """Whether this was made from the output of an attempt that lost the race against one of ``outputs``.

    Or it is a preview that was written before previews of that output were given up.
    """
    directory, _, name = object_key.rpartition("/")
    return name.startswith(MADE_FROM_OUTPUT) and any(output.rpartition("/")[0] == directory for output in outputs)
