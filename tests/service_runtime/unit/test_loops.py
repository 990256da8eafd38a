"""Periodic work."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import asyncpg
import pytest
from prometheus_client import REGISTRY
from sqlalchemy.exc import DBAPIError

from service_runtime.loops import Every, ServerAwayError
from tests.support.waiting import eventually


@contextlib.asynccontextmanager
async def running(loop: Every) -> AsyncIterator[None]:
    task = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def failures(name: str) -> float:
    return REGISTRY.get_sample_value("loop_failures_total", {"loop": name}) or 0.0


def recorded_timeout(waits: list[float]) -> Callable[[float], asyncio.Timeout]:
    bounded = asyncio.timeout

    def timeout(seconds: float) -> asyncio.Timeout:
        waits.append(seconds)
        return bounded(seconds)

    return timeout


async def test_it_runs_at_once_and_then_again_and_again() -> None:
    rounds: list[int] = []

    async def work() -> None:
        rounds.append(1)

    async with running(Every("often", 0.01, work)):
        await eventually(lambda: len(rounds) >= 3)


async def test_waking_it_cuts_the_pause_short() -> None:
    rounds: list[int] = []
    wake = asyncio.Event()

    async def work() -> None:
        rounds.append(1)

    async with running(Every("sleeper", 3600, work, wake=wake)):
        await eventually(lambda: len(rounds) == 1)
        wake.set()
        await eventually(lambda: len(rounds) == 2)


async def test_being_woken_during_a_round_makes_another_round() -> None:
    rounds: list[int] = []
    wake = asyncio.Event()

    async def work() -> None:
        rounds.append(1)
        if len(rounds) == 1:
            wake.set()

    async with running(Every("busy", 3600, work, wake=wake)):
        await eventually(lambda: len(rounds) == 2)


async def test_a_failing_round_is_counted_and_tried_again() -> None:
    rounds: list[int] = []

    async def work() -> None:
        rounds.append(1)
        if len(rounds) < 3:
            raise RuntimeError("not now")

    async with running(Every("flaky", 0.01, work)):
        await eventually(lambda: len(rounds) >= 4)
    assert failures("flaky") == 2


@pytest.mark.parametrize(
    "away",
    [
        ServerAwayError("away"),
        DBAPIError("UPDATE", {}, asyncpg.ReadOnlySQLTransactionError("a standby")),
        asyncpg.DiskFullError("no space left on device"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
    ],
    ids=lambda error: type(getattr(error, "orig", error)).__name__,
)
async def test_a_loop_goes_on_seconds_after_the_return_of_its_server(
    away: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service_runtime.loops._LONGEST_OUTAGE_BACKOFF", timedelta(milliseconds=20))
    rounds: list[int] = []

    async def work() -> None:
        rounds.append(1)
        if len(rounds) < 10:
            raise away

    before = failures("seldom")
    # Its own pauses would be hours by now.
    async with running(Every("seldom", 3600, work)):
        await eventually(lambda: len(rounds) == 10)
    assert failures("seldom") == before + 9


@pytest.mark.parametrize("of_itself", [asyncpg.QueryCanceledError("too long"), asyncpg.OutOfMemoryError("too much")])
async def test_a_round_that_fails_of_itself_is_not_hurried(
    of_itself: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service_runtime.loops._LONGEST_OUTAGE_BACKOFF", timedelta(milliseconds=20))
    waits: list[float] = []
    monkeypatch.setattr("service_runtime.loops.asyncio.timeout", recorded_timeout(waits))

    async def work() -> None:
        raise DBAPIError("SELECT", {}, of_itself)

    async with running(Every("too long", 3600, work, timeout_seconds=7)):
        await eventually(lambda: len(waits) == 2)
    assert waits[0] == 7
    assert waits[1] > 3000


async def test_a_round_that_hangs_is_ended() -> None:
    rounds: list[int] = []

    async def work() -> None:
        rounds.append(1)
        await asyncio.Event().wait()

    async with running(Every("hanging", 0.01, work, timeout_seconds=0.02)):
        await eventually(lambda: len(rounds) >= 2)
    assert failures("hanging") >= 1
