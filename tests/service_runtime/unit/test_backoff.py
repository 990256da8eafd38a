"""How long a retry waits."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_runtime.backoff import Backoff

EXACT = Backoff(first=timedelta(seconds=1), longest=timedelta(minutes=1), jitter=0)
SPREAD = Backoff(first=timedelta(seconds=1), longest=timedelta(minutes=1), jitter=0.1)


def test_the_wait_doubles_up_to_the_longest() -> None:
    assert [EXACT.seconds(failures) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_another_factor_grows_faster() -> None:
    backoff = Backoff(first=timedelta(seconds=2), longest=timedelta(minutes=1), factor=4, jitter=0)
    assert [backoff.delay(failures) for failures in (1, 2, 3, 4)] == [timedelta(seconds=s) for s in (2, 8, 32, 60)]


def test_before_the_first_failure_the_wait_is_that_of_the_first() -> None:
    assert EXACT.delay(0) == EXACT.delay(1)


@given(failures=st.integers(1, 10**9), key=st.uuids())
def test_jitter_stays_within_its_share(failures: int, key: object) -> None:
    exact = EXACT.seconds(failures)
    assert 0.9 * exact <= SPREAD.seconds(failures, key) <= 1.1 * exact


def test_one_item_waits_the_same_in_every_process_and_items_spread() -> None:
    keys = [uuid4() for _ in range(1000)]
    waits = [SPREAD.seconds(7, key) for key in keys]
    assert waits == [SPREAD.seconds(7, key) for key in keys]
    # Of a thousand items that failed together, no tenth of the spread gets much more than its share.
    tenths = [sum(54 + 1.2 * part <= wait < 55.2 + 1.2 * part for wait in waits) for part in range(10)]
    assert min(tenths) > 50
    assert max(tenths) < 150


@pytest.mark.parametrize(
    "wrong",
    [{"first": timedelta(0)}, {"longest": timedelta(milliseconds=1)}, {"factor": 0.5}, {"jitter": 1.0}],
)
def test_a_backoff_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a backoff"):
        Backoff(**({"first": timedelta(seconds=1), "longest": timedelta(minutes=1)} | wrong))
