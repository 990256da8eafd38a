"""The pace at which the library is read."""

from auditor.pace import Pace


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


async def test_bytes_and_objects_are_read_no_faster_than_allowed() -> None:
    clock = Clock()
    pace = Pace(10, 1_000_000, clock=clock, sleep=clock.sleep)
    for _ in range(100):
        await pace.spend(objects=1)
    assert round(clock.now - 1000, 6) == 10
    for _ in range(50):
        await pace.spend(size_bytes=100_000)
    assert round(clock.now - 1000, 6) == 15


async def test_a_pause_is_not_saved_up_for_a_burst() -> None:
    clock = Clock()
    pace = Pace(10, 1_000_000, clock=clock, sleep=clock.sleep)
    await pace.spend(objects=1)
    clock.now += 3600
    began = clock.now
    for _ in range(10):
        await pace.spend(objects=1)
    assert round(clock.now - began, 6) == 1
