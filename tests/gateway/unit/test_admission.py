"""Under an overload the gateway refuses what it cannot answer soon, and answers without a verdict that is late."""

import asyncio
import contextlib

import pytest

from gateway.errors import RateLimited
from gateway.overload import VERDICTS_AWAITED, WRITES_PER_CONNECTION, VerdictWaits, WriteQueue


class SetClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def places(queue: WriteQueue) -> int:
    """How many orders the queue takes at once; afterwards it has learned nothing."""
    taken = 0
    with contextlib.suppress(RateLimited), contextlib.ExitStack() as admitted:
        while True:
            admitted.enter_context(queue.admitted())
            taken += 1
    return taken


def write(queue: WriteQueue, clock: SetClock, seconds: float, times: int = 1) -> None:
    """Orders that are written one after the other."""
    for _ in range(times):
        with queue.admitted():
            clock.now += seconds


def test_writes_beyond_what_the_pool_can_serve_soon_are_refused_until_one_ends() -> None:
    queue = WriteQueue(connections=2)
    with contextlib.ExitStack() as admitted:
        for _ in range(2 * WRITES_PER_CONNECTION - 1):
            admitted.enter_context(queue.admitted())
        with queue.admitted(), pytest.raises(RateLimited) as refusal, queue.admitted():
            pass
        assert refusal.value.headers["Retry-After"] == "1"
        with queue.admitted():
            pass


def test_a_write_that_fails_gives_its_place_back() -> None:
    queue = WriteQueue(connections=1)
    for _ in range(2 * WRITES_PER_CONNECTION):
        with contextlib.suppress(ValueError), queue.admitted():
            raise ValueError


def test_an_order_that_would_wait_too_long_is_refused_until_writes_are_fast_again() -> None:
    clock = SetClock()
    queue = WriteQueue(connections=2, clock=clock)
    write(queue, clock, 0.01, times=50)
    assert places(queue) == 2 * WRITES_PER_CONNECTION
    write(queue, clock, 0.1, times=50)
    assert places(queue) == 4, "four of a tenth of a second are 0.4 s"
    write(queue, clock, 0.01, times=50)
    assert places(queue) == 2 * WRITES_PER_CONNECTION


def test_a_write_behind_others_says_what_each_of_them_costs() -> None:
    clock = SetClock()
    queue = WriteQueue(connections=2, clock=clock)
    for _ in range(50):
        with contextlib.ExitStack() as second, contextlib.ExitStack() as first:
            first.enter_context(queue.admitted())
            second.enter_context(queue.admitted())
            clock.now += 0.1
            first.close()
            clock.now += 0.1
    assert places(queue) == 4, "the second took 0.2 s for two"


def test_as_many_as_there_are_connections_are_taken_however_slow_the_last_one_was() -> None:
    clock = SetClock()
    queue = WriteQueue(connections=3, clock=clock)
    write(queue, clock, 30.0)
    assert places(queue) == 3


async def test_a_late_order_does_not_take_the_turn_of_one_that_waits() -> None:
    queue = WriteQueue(connections=2)
    written: list[int] = []

    async def write_one(number: int) -> None:
        async with queue.turns:
            written.append(number)

    async with asyncio.TaskGroup() as group:
        async with queue.turns:
            for number in range(5):
                group.create_task(write_one(number))
            await asyncio.sleep(0)
        # The turn is free, and the first that waits has not run yet.
        await write_one(5)
    assert written == [0, 1, 2, 3, 4, 5]


async def test_of_too_many_that_await_a_verdict_the_longest_is_answered_without_it() -> None:
    waits = VerdictWaits()
    with contextlib.ExitStack() as waiting:
        cut = [waiting.enter_context(waits.waiting()) for _ in range(VERDICTS_AWAITED + 2)]
        assert [future.done() for future in cut] == [True, True, *[False] * VERDICTS_AWAITED]
    with waits.waiting() as another:
        await asyncio.sleep(0)
        assert not another.done()
