"""The pace at which the library is read."""

import pytest

from auditor.pace import Pace


class Clock:
    """Time that passes only while somebody sleeps, and always a little longer than asked for."""

    def __init__(self, late_seconds: float = 0.0) -> None:
        self.now = 1000.0
        self.sleeps = 0
        self._late_seconds = late_seconds

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.now += seconds + self._late_seconds


@pytest.mark.parametrize("late_seconds", [0.0, 0.05])
async def test_bytes_and_objects_are_read_at_the_pace_that_is_set(late_seconds: float) -> None:
    clock = Clock(late_seconds)
    pace = Pace(10, 1_000_000, clock=clock, sleep=clock.sleep)
    for _ in range(1000):
        await pace.spend(objects=1)
    # One second of each is spent at once.
    assert clock.now - 1000 == pytest.approx(99, abs=0.2)
    for _ in range(1000):
        await pace.spend(size_bytes=50_000)
    assert clock.now - 1000 == pytest.approx(148, abs=0.2)


async def test_small_pieces_cost_no_sleep_each() -> None:
    clock = Clock()
    pace = Pace(10, 1_000_000, clock=clock, sleep=clock.sleep)
    for _ in range(1000):
        await pace.spend(size_bytes=10_000)
    assert clock.now - 1000 == pytest.approx(9, abs=0.2)
    assert clock.sleeps <= 90


async def test_of_a_pause_only_a_second_is_saved_up() -> None:
    clock = Clock()
    pace = Pace(10, 1_000_000, clock=clock, sleep=clock.sleep)
    await pace.spend(objects=1)
    clock.now += 3600
    began = clock.now
    for _ in range(50):
        await pace.spend(objects=1)
    assert clock.now - began == pytest.approx(4, abs=0.2)


async def test_objects_and_bytes_are_paid_for_at_the_same_time() -> None:
    clock = Clock()
    pace = Pace(10, 1_000_000, clock=clock, sleep=clock.sleep)
    for _ in range(100):
        await pace.spend(objects=1)
        await pace.spend(size_bytes=100_000)
    assert clock.now - 1000 == pytest.approx(9, abs=0.2)
