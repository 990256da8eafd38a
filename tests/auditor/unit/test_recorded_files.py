"""Comparing a file with the books."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from auditor.recorded_files import (
    CLOCKS_DIFFER,
    FoundFile,
    Kind,
    ListedObject,
    RecordedFile,
    compare,
    find_generation,
    is_left_over,
    is_suspect,
)

STORED_AT = datetime(2026, 11, 26, tzinfo=UTC)
OUTPUT = RecordedFile("u/g/output.mp4", 6, "aa", STORED_AT)
POSTER = RecordedFile("u/g/poster-aa.jpg", None, None, STORED_AT)
BEING_DELETED = replace(OUTPUT, is_deleted=True)
DELETED = replace(BEING_DELETED, deleted_at=STORED_AT + timedelta(days=1))


@pytest.mark.parametrize(
    ("recorded", "found", "kind"),
    [
        (OUTPUT, FoundFile(6, "aa", "aa"), None),
        (OUTPUT, FoundFile(6, "aa", None), None),
        (OUTPUT, None, "missing"),
        (OUTPUT, FoundFile(7, None, "aa"), "size"),
        (OUTPUT, FoundFile(6, "bb", "bb"), "checksum"),
        (OUTPUT, FoundFile(6, None, "aa"), "checksum"),
        (POSTER, FoundFile(9, "cc", "cc"), None),
        (POSTER, FoundFile(9, "cc", "dd"), "checksum"),
        (POSTER, FoundFile(9, "cc", None), "checksum"),
        (POSTER, None, "missing"),
        (BEING_DELETED, None, None),
        (BEING_DELETED, FoundFile(6, "aa", "aa"), None),
        (DELETED, None, None),
        (DELETED, FoundFile(6, "aa", "aa"), "undeleted"),
    ],
)
def test_a_file_is_held_against_what_is_recorded(
    recorded: RecordedFile, found: FoundFile | None, kind: Kind | None
) -> None:
    difference = compare(recorded, found)
    assert (None if difference is None else difference.kind) == kind


@pytest.mark.parametrize(
    ("recorded", "size_bytes", "later", "suspect"),
    [
        (OUTPUT, 6, timedelta(0), False),
        (OUTPUT, 6, CLOCKS_DIFFER, False),
        (OUTPUT, 6, CLOCKS_DIFFER + timedelta(seconds=1), True),
        (OUTPUT, 5, timedelta(0), True),
        (POSTER, 5, timedelta(0), False),
        (BEING_DELETED, 6, timedelta(0), False),
        (DELETED, 6, timedelta(0), True),
    ],
)
def test_a_listing_alone_may_say_that_a_file_changed(
    recorded: RecordedFile, size_bytes: int, later: timedelta, suspect: bool
) -> None:
    assert is_suspect(recorded, ListedObject(recorded.object_key, size_bytes, STORED_AT + later)) is suspect


def test_a_key_names_its_generation() -> None:
    generation_id = uuid4()
    assert find_generation(f"{uuid4()}/{generation_id}/output.mp4") == generation_id
    for key in ("", "a", f"{generation_id}/output.mp4", "a/b/c", f"a/{generation_id}/c/d"):
        assert find_generation(key) is None


def test_the_poster_of_an_attempt_that_lost_is_left_over() -> None:
    outputs = ["u/g/output.mp4"]
    assert is_left_over("u/g/poster-bb.jpg", outputs)
    assert not is_left_over("u/g/output.webm", outputs)
    assert not is_left_over("u/h/poster-bb.jpg", outputs)
