"""Holds single files of the library against the books."""

from collections.abc import Sequence
from dataclasses import dataclass

from auditor.library import Library
from auditor.metrics import LIBRARY_OBJECTS
from auditor.recorded_files import Difference, RecordedFile, compare


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A file that was read just now, how it differs from the books, and where an operator can open it."""

    recorded: RecordedFile
    difference: Difference | None
    link: str


async def check_file(library: Library, recorded: RecordedFile) -> Difference | None:
    """Read one file whole and compare it; None if it is as recorded. Raises LibraryUnavailable."""
    difference = compare(recorded, await library.read(recorded.object_key, recorded.size_bytes))
    LIBRARY_OBJECTS.labels("as_recorded" if difference is None else difference.kind).inc()
    return difference


async def check_files(library: Library, recorded: Sequence[RecordedFile]) -> list[CheckedFile]:
    """Read some files for an operator. Raises LibraryUnavailable."""
    return [CheckedFile(one, await check_file(library, one), library.link(one.object_key)) for one in recorded]
