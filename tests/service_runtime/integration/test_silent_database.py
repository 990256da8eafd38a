"""The database as readiness sees it, and connections on which nothing comes back any more."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from local_platform.servers import PostgresServer
from service_runtime import database_watch
from service_runtime.database import DRIVER_ERRORS, DatabaseReadOnly, create_engine, engine_for
from service_runtime.database_watch import DatabaseNotReady, DatabaseWatch
from tests.service_runtime.settings import settings
from tests.support import eventually
from tests.support.databases import Database, MakeDatabase
from tests.support.tcp_proxy import TcpProxy, tcp_proxy


@pytest.fixture
async def database(make_database: MakeDatabase) -> Database:
    return await make_database()


@pytest.fixture
async def proxy(postgres_server: PostgresServer) -> AsyncIterator[TcpProxy]:
    async with tcp_proxy(postgres_server.port) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_watch, "ASK_SECONDS", 0.05)
    monkeypatch.setattr(database_watch, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(database_watch, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr(database_watch, "STALE_SECONDS", 1.0)


@asynccontextmanager
async def watched(dsn: str) -> AsyncIterator[tuple[DatabaseWatch, AsyncEngine]]:
    configured = settings(database_url=dsn)
    engine = create_engine(configured)
    watch = DatabaseWatch(configured, engine)
    running = asyncio.create_task(watch.run())
    try:
        yield watch, engine
        assert not running.done(), "the watch outlives whatever becomes of the database"
    finally:
        running.cancel()
        await asyncio.wait({running})
        await engine.dispose()


def ready(watch: DatabaseWatch) -> Callable[[], object]:
    async def check() -> bool:
        try:
            return bool(await watch.ready())
        except (DatabaseNotReady, DatabaseReadOnly, *DRIVER_ERRORS) as error:
            raise AssertionError(str(error)) from error

    return check


def failing(watch: DatabaseWatch, words: str) -> Callable[[], object]:
    async def check() -> bool:
        try:
            await watch.ready()
        except Exception as error:  # noqa: BLE001 - whatever it is, its words count
            return words in f"{type(error).__name__}: {error}"
        return False

    return check


async def test_a_statement_on_a_cut_connection_fails_within_seconds(database: Database, proxy: TcpProxy) -> None:
    async with watched(proxy.through(database.dsn("billing"))) as (watch, engine):
        await eventually(ready(watch))
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            proxy.silence_established()
            with pytest.raises(DBAPIError) as failure:
                async with asyncio.timeout(5):
                    await connection.execute(text("SELECT 2"))
            assert failure.value.connection_invalidated
        async with asyncio.timeout(5), engine.connect() as connection:
            assert await connection.scalar(text("SELECT 3")) == 3
        await eventually(ready(watch))


async def test_a_session_that_ended_without_a_close_is_given_up(database: Database, proxy: TcpProxy) -> None:
    """The server says so while nothing is asked, and the driver takes no statement from then on."""
    proxy.hides_ends = True
    async with watched(proxy.through(database.dsn("billing"))) as (watch, engine):
        await eventually(ready(watch))
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        async with database.superuser_engine().connect() as superuser:
            ended = await superuser.scalar(
                text(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        assert ended == 2
        await eventually(lambda: proxy.hidden_ends >= ended)
        async with engine.connect() as connection:
            with pytest.raises(DBAPIError) as failure:
                await connection.execute(text("SELECT 2"))
            assert failure.value.connection_invalidated
        async with asyncio.timeout(5), engine.connect() as connection:
            assert await connection.scalar(text("SELECT 3")) == 3
        await eventually(ready(watch))
        proxy.hides_ends = False


async def test_a_database_that_pauses_keeps_its_connections(database: Database, proxy: TcpProxy) -> None:
    async with watched(proxy.through(database.dsn("billing"))) as (watch, engine):
        await eventually(ready(watch))
        async with engine.connect() as connection:
            backend = await connection.scalar(text("SELECT pg_backend_pid()"))
            proxy.silence()
            await eventually(failing(watch, "has not answered for"))
            proxy.resume()
            await eventually(ready(watch))
            assert await connection.scalar(text("SELECT pg_backend_pid()")) == backend


async def test_a_watch_that_stops_while_it_tries_another_connection_closes_it(
    database: Database, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_watch, "GRACE_SECONDS", 60.0)
    superuser = database.superuser_engine()

    async def connections() -> int:
        async with superuser.connect() as connection:
            watching = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%-watch'"
            return int(await connection.scalar(text(f"{watching} AND datname = current_database()")) or 0)

    async def are(count: int) -> bool:
        return await connections() == count

    async with watched(proxy.through(database.dsn("billing"))) as (watch, _):
        await eventually(ready(watch))
        proxy.silence_established()
        await eventually(lambda: are(2))
    await eventually(lambda: are(1))


async def test_without_a_watch_a_silent_connection_ends_at_the_timeout(
    database: Database, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service_runtime.database.COMMAND_TIMEOUT_SECONDS", 0.2)
    engine = engine_for(proxy.through(database.dsn("billing")), application_name="test", statement_timeout_ms=200)
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            proxy.silence_established()
            async with asyncio.timeout(5):
                with pytest.raises(TimeoutError):
                    await connection.execute(text("SELECT 2"))
        async with asyncio.timeout(5), engine.connect() as connection:
            assert await connection.scalar(text("SELECT 3")) == 3
    finally:
        await engine.dispose()


async def test_a_database_that_takes_no_writes_is_not_ready(database: Database) -> None:
    async with watched(database.dsn("billing")) as (watch, _):
        await eventually(ready(watch))
        async with database.superuser_engine().begin() as superuser:
            await superuser.execute(text(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on"))
        async with database.superuser_engine().connect() as superuser:
            await superuser.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name"),
                {"name": "reelhouse-probe-watch"},
            )
        await eventually(failing(watch, "takes no writes"), 30)
        async with database.superuser_engine().begin() as superuser:
            await superuser.execute(text("SET transaction_read_only = off"))
            await superuser.execute(text(f"ALTER DATABASE {database.name} RESET default_transaction_read_only"))
        await eventually(ready(watch))


async def test_a_write_that_met_a_standby_is_tried_on_another_connection(database: Database) -> None:
    engine = engine_for(database.dsn("billing"), application_name="test")
    try:
        async with engine.connect() as connection:
            backend = await connection.scalar(text("SELECT pg_backend_pid()"))
            await connection.execute(text("SET transaction_read_only = on"))
            with pytest.raises(DBAPIError, match="read-only"):
                await connection.execute(text("CREATE TABLE billing.written (number int)"))
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT pg_backend_pid()")) != backend
    finally:
        await engine.dispose()


async def test_a_full_pool_does_not_make_the_service_unready(database: Database) -> None:
    configured = settings(database_url=database.dsn("billing"), database_pool_size=1)
    async with watched(configured.database_url.get_secret_value()) as (watch, engine), engine.connect():
        await eventually(ready(watch))


async def test_an_absent_database_is_named_and_comes_back(database: Database, proxy: TcpProxy) -> None:
    working, proxy.target = proxy.target, ("127.0.0.1", 1)
    async with watched(proxy.through(database.dsn("billing"))) as (watch, _):
        await eventually(failing(watch, "Connection"))
        proxy.target = working
        await eventually(ready(watch))


async def test_prometheus_sees_whether_the_database_takes_writes(database: Database, proxy: TcpProxy) -> None:
    working, proxy.target = proxy.target, ("127.0.0.1", 1)

    def shown(expected: float) -> Callable[[], object]:
        return lambda: REGISTRY.get_sample_value("database_writable", {"service": "probe"}) == expected

    async with watched(proxy.through(database.dsn("billing"))) as (watch, _):
        assert shown(0)(), "nothing has answered yet"
        await eventually(failing(watch, "Connection"))
        assert shown(0)()
        proxy.target = working
        await eventually(shown(1))
        proxy.silence()
        await eventually(shown(0))
        proxy.resume()
        await eventually(shown(1))


async def test_the_clock_is_the_databases_where_this_host_is_an_hour_late(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = SimpleNamespace(time=lambda: time.time() - 3600, monotonic=time.monotonic)
    monkeypatch.setattr(database_watch, "time", late)
    async with watched(database.dsn("billing")) as (watch, _):
        await eventually(ready(watch))
        facts = await watch.ready()
        assert facts["clock_offset_seconds"] == pytest.approx(3600, abs=5)
        assert watch.clock.now() == pytest.approx(time.time(), abs=5)
