"""Cursors, request hashes, and what a spreadsheet makes of a note."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest

from gateway.domain import Cursor, decode_cursor, encode_cursor, is_storable, request_hash
from gateway.routes.account import _cell


def _of(at: datetime) -> str:
    return encode_cursor(Cursor(at, UUID(int=7)))


def test_a_cursor_round_trips() -> None:
    cursor = Cursor(datetime.now(UTC), uuid4())
    assert decode_cursor(encode_cursor(cursor)) == cursor


NO_ZONE = datetime(2026, 1, 1)  # noqa: DTZ001 - that it has none is the point
BEFORE_TIME = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))


@pytest.mark.parametrize("text", ["", "x", "é", "bm9wZQ", *(_of(at) for at in (NO_ZONE, BEFORE_TIME))])
def test_an_invented_cursor_is_none(text: str) -> None:
    assert decode_cursor(text) is None


def test_the_order_of_keys_does_not_change_a_request() -> None:
    assert request_hash({"a": 1, "b": {"c": 2, "d": 3}}) == request_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert request_hash({"a": 1}) != request_hash({"a": "1"})


@pytest.mark.parametrize("value", ["a\0", "\ud800", float("nan"), float("inf")])
def test_values_that_the_database_cannot_hold_are_recognised(value: object) -> None:
    assert not is_storable(value)


@pytest.mark.parametrize("value", ["", "😀 é", 1, 1.5, None, True])
def test_other_scalars_are_storable(value: object) -> None:
    assert is_storable(value)


@pytest.mark.parametrize("note", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "  =1", "＝1"])
def test_a_note_is_never_a_formula(note: str) -> None:
    assert _cell(note) == f"'{note}"


def test_numbers_and_plain_notes_stay_as_they_are() -> None:
    assert [_cell(value) for value in (-5, "thanks", None, "a=b")] == [-5, "thanks", "", "a=b"]
