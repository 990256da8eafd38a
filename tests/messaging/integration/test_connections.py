"""Connections are had without a change of stacks where that is possible, and as ever where it is not."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from messaging.database import single_statements, transaction
from tests.support.databases import Database, MakeDatabase
from tests.support.waiting import eventually

Open = Callable[[AsyncEngine], AbstractAsyncContextManager[AsyncConnection]]
EITHER = pytest.mark.parametrize("opened", [transaction, single_statements])
PID = text("SELECT pg_backend_pid()")
ADD = text("INSERT INTO kept VALUES (:n)")
KEPT = text("SELECT n FROM kept ORDER BY n")


@pytest.fixture
async def database(make_database: MakeDatabase) -> Database:
    return await make_database()


@pytest.fixture
async def engine(database: Database) -> AsyncEngine:
    engine = database.superuser_engine(pool_size=1)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE kept (n int PRIMARY KEY)"))
    return engine


def idle(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedin()


@EITHER
async def test_an_idle_connection_that_the_server_ended_is_replaced(
    opened: Open, database: Database, engine: AsyncEngine
) -> None:
    for _ in range(3):
        async with opened(engine) as connection:
            pid = await connection.scalar(PID)
            driver = (await connection.get_raw_connection()).driver_connection
        async with database.superuser_engine(pool_size=1).begin() as superuser:
            await superuser.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        assert driver is not None
        await eventually(driver.is_closed, what="the end of the connection")
        assert idle(engine) == 1
        async with opened(engine) as connection:
            assert await connection.scalar(PID) != pid
        assert idle(engine) == 1


@EITHER
async def test_those_that_find_no_idle_connection_get_one_in_turn(opened: Open, engine: AsyncEngine) -> None:
    order: list[int] = []

    async def use(number: int) -> None:
        async with opened(engine) as connection:
            await connection.execute(text("SELECT pg_sleep(0.01)"))
            order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(use(number))
    assert order == [0, 1, 2, 3, 4]
    assert idle(engine) == 1


async def add_twice(opened: Open, engine: AsyncEngine, number: int) -> None:
    async with opened(engine) as connection:
        await connection.execute(ADD, {"n": number})
        await connection.execute(ADD, {"n": number})


async def add_and_fail(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await connection.execute(ADD, {"n": 2})
        raise ZeroDivisionError


async def add_and_take_too_long(engine: AsyncEngine) -> None:
    async with asyncio.timeout(0.05), transaction(engine) as connection:
        await connection.execute(ADD, {"n": 3})
        await connection.execute(text("SELECT pg_sleep(60)"))


async def kept(engine: AsyncEngine) -> list[int]:
    assert idle(engine) <= 1
    async with transaction(engine) as connection:
        return list(await connection.scalars(KEPT))


async def test_a_transaction_is_committed_whole_or_not_at_all(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await connection.execute(ADD, {"n": 1})
    with pytest.raises(IntegrityError):
        await add_twice(transaction, engine, 2)
    with pytest.raises(ZeroDivisionError):
        await add_and_fail(engine)
    with pytest.raises(TimeoutError):
        await add_and_take_too_long(engine)
    assert await kept(engine) == [1]


async def test_a_transaction_that_its_commit_refuses_leaves_a_usable_connection(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await connection.execute(text("ALTER TABLE kept DROP CONSTRAINT kept_pkey"))
        await connection.execute(text("ALTER TABLE kept ADD UNIQUE (n) DEFERRABLE INITIALLY DEFERRED"))
    with pytest.raises(IntegrityError):
        await add_twice(transaction, engine, 1)
    assert await kept(engine) == []


async def test_single_statements_stand_each_for_itself_and_leave_no_trace(engine: AsyncEngine) -> None:
    with pytest.raises(IntegrityError):
        await add_twice(single_statements, engine, 1)
    # The same connection is one for transactions again.
    with pytest.raises(ZeroDivisionError):
        await add_and_fail(engine)
    assert await kept(engine) == [1]
