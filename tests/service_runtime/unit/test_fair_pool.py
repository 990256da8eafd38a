"""Who waits for a connection gets one in turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.util import greenlet_spawn

from service_runtime.fair_pool import FairPool


class DriverConnection:
    """As much of a connection as the pool uses."""

    def rollback(self) -> None:
        """Nothing is open."""

    def close(self) -> None:
        """Nothing to close."""


def pool_of(size: int, timeout: float = 20) -> FairPool:
    creator: Any = DriverConnection
    return FairPool(creator, pool_size=size, max_overflow=0, timeout=timeout, use_lifo=True)


@asynccontextmanager
async def connected(pool: FairPool) -> AsyncIterator[None]:
    connection = await greenlet_spawn(pool.connect)
    try:
        yield
    finally:
        connection.close()


async def test_connections_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    pool = pool_of(1)
    served: list[str] = []

    async def work(name: str, times: int) -> None:
        for _ in range(times):
            async with connected(pool):
                served.append(name)
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        # The first asks again the moment it has given its connection back, before the others run.
        for name, times in (("again", 4), ("second", 1), ("third", 1)):
            tasks.create_task(work(name, times))
    assert served[:4] == ["again", "second", "third", "again"]


async def test_a_wait_that_ends_leaves_its_turn_to_the_next() -> None:
    pool = pool_of(1)
    async with connected(pool):
        cancelled = asyncio.create_task(greenlet_spawn(pool.connect))
        next_one = asyncio.create_task(greenlet_spawn(pool.connect))
        await asyncio.sleep(0)
        cancelled.cancel()
    (await next_one).close()
    assert cancelled.cancelled()
    assert pool.checkedout() == 0


async def test_a_connection_that_comes_as_the_wait_is_cancelled_is_not_lost() -> None:
    pool = pool_of(1)
    async with connected(pool):
        waiting = asyncio.create_task(greenlet_spawn(pool.connect))
        await asyncio.sleep(0)
    # The connection is handed over, and the waiter has not run since.
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with connected(pool):
        assert pool.checkedout() == 1


async def test_a_wait_for_a_connection_is_bounded() -> None:
    pool = pool_of(1, timeout=0.01)
    async with connected(pool):
        with pytest.raises(PoolTimeoutError):
            await greenlet_spawn(pool.connect)
    assert pool.checkedout() == 0
