"""A stream that is nearly full gives up history, and nothing that a service has yet to read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.positions import EXPIRY_MARGIN
from messaging.stream_room import GROWTH_SECONDS, NEARLY_FULL, Contents, kept_seconds

WEEK = 7 * 24 * 3600.0
DAY = 24 * 3600.0
LEAST = 2 * 3600.0


def kept(full: float, standing: float = WEEK, oldest: float = WEEK, unread: float | None = None) -> float:
    return kept_seconds(WEEK, standing, LEAST, Contents(full, oldest, unread))


@pytest.mark.parametrize("full", [0.0, 0.3, 0.79])
def test_a_stream_with_room_keeps_its_retention(full: float) -> None:
    assert kept(full) == WEEK


def test_a_nearly_full_stream_keeps_as_much_as_leaves_room() -> None:
    assert kept(0.8) == pytest.approx(WEEK * 0.75)
    assert kept(1.0) == pytest.approx(WEEK * 0.6)
    assert kept(0.9, standing=DAY, oldest=DAY) == pytest.approx(DAY * 2 / 3)


def test_what_a_service_has_yet_to_read_is_kept() -> None:
    assert kept(1.0, unread=6 * DAY) > 6 * DAY
    assert kept(1.0, unread=10 * DAY) == WEEK
    assert kept(1.0, standing=DAY, oldest=DAY, unread=0.9 * DAY) > 0.9 * DAY


def test_the_retention_grows_when_there_is_room_and_only_as_time_passes() -> None:
    """What has left the stream must not look younger than its retention: its relay would take it for lost."""
    assert kept(0.6, standing=DAY, oldest=DAY) == DAY
    assert kept(0.4, standing=DAY, oldest=DAY) == DAY + GROWTH_SECONDS
    assert kept(0.4, standing=DAY, oldest=DAY / 2) == DAY
    assert kept(0.0, standing=DAY, oldest=0.0) == DAY
    assert kept(0.4, standing=WEEK - 60, oldest=WEEK - 60) == WEEK
    assert EXPIRY_MARGIN.total_seconds() > GROWTH_SECONDS


def test_a_stream_that_nothing_has_left_gets_its_retention_at_once() -> None:
    assert kept_seconds(WEEK, DAY, LEAST, Contents(0.6, DAY, None, is_whole=True)) == WEEK


@given(
    full=st.floats(0, 1.2),
    standing=st.floats(LEAST, WEEK),
    oldest=st.floats(0, WEEK),
    unread=st.one_of(st.none(), st.floats(0, WEEK)),
)
def test_no_retention_is_shorter_than_what_is_unread_or_longer_than_ordered(
    full: float, standing: float, oldest: float, unread: float | None
) -> None:
    now = kept(full, standing, oldest, unread)
    assert LEAST <= now <= WEEK
    assert now <= max(standing, oldest + GROWTH_SECONDS + 1)
    if now < standing:
        assert full >= NEARLY_FULL
        assert unread is None or now > unread
