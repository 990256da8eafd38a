"""Statements that go past SQLAlchemy's layers behave as all others do."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from messaging.database import is_contended, is_unavailable, single_statements
from service_runtime.database import engine_for
from service_runtime.statements import Statement
from tests.support.databases import Database, MakeDatabase
from tests.support.waiting import eventually

NUMBERS = Statement("SELECT n, n * :factor AS product FROM generate_series(1, CAST(:count AS int)) AS n")
ADD = Statement("INSERT INTO pg_temp.kept VALUES (:n)")
KEPT = text("SELECT count(*) FROM pg_temp.kept")
SLEEP = Statement("SELECT pg_sleep(CAST(:seconds AS float))")


@pytest.fixture
async def database(make_database: MakeDatabase) -> Database:
    return await make_database()


@pytest.fixture
def engine(database: Database) -> AsyncEngine:
    """Of the superuser: a service may make no table, and these tests need one."""
    return database.superuser_engine(pool_size=1)


def test_each_name_is_one_value_however_often_it_is_used() -> None:
    statement = Statement("SELECT :b, CAST(:a AS text), :b::int, '{:}'")
    assert (statement.names, statement.sql) == (("b", "a"), "SELECT $1, CAST($2 AS text), $1::int, '{:}'")


async def test_rows_are_read_by_place_and_by_name(engine: AsyncEngine) -> None:
    async with single_statements(engine) as connection:
        values = {"factor": 10, "count": 3}
        assert [row["product"] for row in await NUMBERS.fetch(connection, values)] == [10, 20, 30]
        assert tuple(await NUMBERS.fetch_one(connection, values) or ()) == (1, 10)
        assert await NUMBERS.fetch_one(connection, values | {"count": 0}) is None
        assert await NUMBERS.execute(connection, values) == 3


async def test_it_is_part_of_the_transaction_around_it(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        async with connection.begin():
            await connection.execute(text("CREATE TEMP TABLE kept (n int PRIMARY KEY)"))
        transaction = await connection.begin()
        assert await ADD.execute(connection, {"n": 1}) == 1
        await transaction.rollback()
        async with connection.begin():
            await ADD.execute(connection, {"n": 2})
        async with connection.begin():
            assert await connection.scalar(KEPT) == 1


async def test_one_that_is_first_and_last_commits_by_itself(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        async with connection.begin():
            await connection.execute(text("CREATE TEMP TABLE kept (n int PRIMARY KEY)"))
        transaction = await connection.begin()
        await ADD.fetch_last(connection, {"n": 1})
        await transaction.rollback()
        transaction = await connection.begin()
        await ADD.execute(connection, {"n": 2})
        await ADD.fetch_last(connection, {"n": 3})
        await transaction.rollback()
        async with connection.begin():
            assert await connection.scalar(KEPT) == 1


async def test_statements_at_once_on_one_connection_take_turns(engine: AsyncEngine) -> None:
    async with engine.connect() as connection, connection.begin():
        found = await asyncio.gather(*(NUMBERS.execute(connection, {"factor": 1, "count": n}) for n in (1, 2, 3)))
        assert found == [1, 2, 3]


async def test_it_is_refused_where_nobody_would_commit_it(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        with pytest.raises(RuntimeError, match="begin a transaction"):
            await NUMBERS.fetch(connection, {"factor": 1, "count": 1})


async def test_an_error_is_the_one_that_any_statement_raises(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        async with connection.begin():
            await connection.execute(text("CREATE TEMP TABLE kept (n int PRIMARY KEY)"))
            await ADD.execute(connection, {"n": 1})
        with pytest.raises(IntegrityError) as raised:
            async with connection.begin():
                await ADD.execute(connection, {"n": 1})
        assert getattr(raised.value.orig, "sqlstate", None) == "23505"
        assert "INSERT INTO pg_temp.kept" in str(raised.value)
        assert not is_unavailable(raised.value)
        async with connection.begin():
            assert await connection.scalar(KEPT) == 1


async def test_a_statement_that_takes_too_long_is_contended(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        transaction = await connection.begin()
        await connection.execute(text("SET LOCAL statement_timeout = '20ms'"))
        with pytest.raises(DBAPIError) as raised:
            await SLEEP.fetch(connection, {"seconds": 20})
        await transaction.rollback()
        assert is_contended(raised.value)
        assert not connection.invalidated


async def test_a_connection_that_the_server_ended_is_replaced(database: Database, engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
        await connection.rollback()

        async def ended() -> None:
            async with connection.begin():
                await SLEEP.fetch(connection, {"seconds": 60})

        waiting = asyncio.create_task(ended())
        async with database.superuser_engine().begin() as superuser:
            busy = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid AND query LIKE '%pg_sleep%'")

            async def is_busy() -> bool:
                return bool(await superuser.scalar(busy, {"pid": pid}))

            await eventually(is_busy, 20, "the statement")
            await superuser.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(DBAPIError) as raised:
            await waiting
        assert raised.value.connection_invalidated
        assert is_unavailable(raised.value)
    async with single_statements(engine) as connection:
        assert await NUMBERS.execute(connection, {"factor": 1, "count": 1}) == 1


async def test_a_cancelled_statement_gives_its_connection_up(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), connection.begin():
                await SLEEP.fetch(connection, {"seconds": 60})
        assert connection.invalidated
    async with single_statements(engine) as connection:
        assert await NUMBERS.execute(connection, {"factor": 1, "count": 1}) == 1


@pytest.mark.parametrize("cache_size", [0, 100])
async def test_a_column_that_changed_its_type_fails_one_time_at_most(database: Database, cache_size: int) -> None:
    engine = engine_for(database.superuser_dsn, application_name="test", statement_cache_size=cache_size)
    read = Statement("SELECT n FROM pg_temp.kept")
    try:
        async with engine.connect() as connection:
            async with connection.begin():
                await connection.execute(text("CREATE TEMP TABLE kept AS SELECT 1 AS n"))
                assert [row["n"] for row in await read.fetch(connection, {})] == [1]
            async with connection.begin():
                await connection.exec_driver_sql("ALTER TABLE pg_temp.kept ALTER n TYPE text")
            try:
                async with connection.begin():
                    await read.fetch(connection, {})
            except DBAPIError:
                assert cache_size
            async with connection.begin():
                assert [row["n"] for row in await read.fetch(connection, {})] == ["1"]
    finally:
        await engine.dispose()
