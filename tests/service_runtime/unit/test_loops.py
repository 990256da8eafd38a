"""Periodic work."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

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


async def test_a_loop_goes_on_seconds_after_the_return_of_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_runtime.loops._LONGEST_OUTAGE_BACKOFF", timedelta(milliseconds=20))
    rounds: list[int] = []

    async def work() -> None:
        rounds.append(1)
        if len(rounds) < 10:
            raise ServerAwayError("away")

    # Its own pauses would be hours by now.
    async with running(Every("seldom", 3600, work)):
        await eventually(lambda: len(rounds) == 10)
    assert failures("seldom") == 9


async def test_a_round_that_hangs_is_ended() -> None:
    rounds: list[int] = []

    async def work() -> None:
        rounds.append(1)
        await asyncio.Event().wait()

    async with running(Every("hanging", 0.01, work, timeout_seconds=0.02)):
        await eventually(lambda: len(rounds) >= 2)
    assert failures("hanging") >= 1
