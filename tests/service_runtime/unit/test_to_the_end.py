"""Work that finishes although its task is cancelled."""

import asyncio

import pytest

from service_runtime.lifecycle import to_the_end


async def test_it_gives_what_the_work_gives() -> None:
    async def work() -> int:
        return 7

    assert await to_the_end(work(), 1) == 7


async def test_a_cancelled_task_ends_after_its_work_however_often_it_is_cancelled() -> None:
    begun, gate, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await gate.wait()
        done.set()

    task = asyncio.create_task(to_the_end(work(), 60))
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.wait({task}, timeout=0.01)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


async def test_work_that_takes_longer_than_the_drain_time_is_cancelled() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    task = asyncio.create_task(to_the_end(work(), 0.05))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()
