"""The engine against a real server."""

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from service_runtime.database import create_engine, engine_for
from service_runtime.redaction import redact
from tests.service_runtime.settings import settings
from tests.support.databases import MakeDatabase


async def test_every_wait_is_bounded_and_the_clock_is_utc(make_database: MakeDatabase) -> None:
    database = await make_database()
    engine = create_engine(settings(database_url=database.dsn("billing")))
    try:
        async with engine.connect() as connection:
            found = {
                name: await connection.scalar(text(f"SHOW {name}"))
                for name in (
                    "application_name",
                    "lock_timeout",
                    "statement_timeout",
                    "idle_in_transaction_session_timeout",
                    "transaction_timeout",
                    "timezone",
                )
            }
            assert found == {
                "application_name": "reelhouse-probe",
                "lock_timeout": "5s",
                "statement_timeout": "30s",
                "idle_in_transaction_session_timeout": "30s",
                "transaction_timeout": "1min",
                "timezone": "UTC",
            }
            moment = await connection.scalar(text("SELECT now()"))
            assert moment.tzinfo == UTC
            assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
    finally:
        await engine.dispose()


@pytest.mark.parametrize(("statement_timeout_ms", "cache_size", "limit"), [(3_600_000, 100, "2h"), (30_000, 0, "0")])
async def test_a_transaction_may_take_two_statements_unless_a_pooler_shares_sessions(
    make_database: MakeDatabase, statement_timeout_ms: int, cache_size: int, limit: str
) -> None:
    database = await make_database()
    engine = engine_for(
        database.dsn("billing"),
        application_name="test",
        statement_timeout_ms=statement_timeout_ms,
        statement_cache_size=cache_size,
    )
    try:
        async with engine.connect() as connection:
            assert await connection.scalar(text("SHOW transaction_timeout")) == limit
    finally:
        await engine.dispose()


@pytest.mark.parametrize("cache_size", [0, 100])
async def test_json_travels_both_ways_with_and_without_prepared_statements(
    make_database: MakeDatabase, cache_size: int
) -> None:
    database = await make_database()
    engine = engine_for(database.dsn("billing"), application_name="test", statement_cache_size=cache_size)
    try:
        async with engine.connect() as connection:
            for number in range(3):
                value = await connection.scalar(text("SELECT jsonb_build_object('n', CAST(:n AS int))"), {"n": number})
                assert value == {"n": number}
    finally:
        await engine.dispose()


async def test_connections_that_the_server_closed_are_replaced_without_an_error(make_database: MakeDatabase) -> None:
    database = await make_database()
    engine = engine_for(database.dsn("billing"), application_name="victim", pool_size=3)

    async def ask() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    try:
        await asyncio.gather(*(ask() for _ in range(3)))
        async with database.superuser_engine().connect() as superuser:
            killed = await superuser.execute(
                text("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'victim'")
            )
            assert all(ended for (ended,) in killed.all())
        await asyncio.sleep(0)
        for _ in range(5):
            await ask()
    finally:
        await engine.dispose()


async def test_a_lock_that_somebody_holds_is_waited_for_only_so_long(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service_runtime.database.LOCK_TIMEOUT_MS", 100)
    database = await make_database()
    engine = engine_for(database.dsn("billing"), application_name="test", pool_size=2)
    try:
        async with engine.connect() as first, engine.connect() as second:
            await first.execute(text("SELECT pg_advisory_xact_lock(1)"))
            with pytest.raises(DBAPIError, match="lock timeout"):
                await second.execute(text("SELECT pg_advisory_xact_lock(1)"))
    finally:
        await engine.dispose()


async def test_an_error_of_the_database_shows_none_of_the_values_that_were_sent(make_database: MakeDatabase) -> None:
    database = await make_database()
    engine = engine_for(database.dsn("billing"), application_name="test")
    callback = (
        "https://callbacks.example.com/webhooks/runpod/0190d7a2-6c3e-7b1a-9f6e-2d0c5a7b8e91/1763900000." + "f" * 64
    )
    body = f'{{"id": "job-1", "input": "{"x" * 1000}", "webhook": "{callback}", "workerId": "a-worker-with-a-name"}}'
    try:
        async with engine.connect() as connection:
            with pytest.raises(DBAPIError) as caught:
                await connection.execute(
                    text("SELECT CAST(:body AS bytea), 1 / (:n - 1)"), {"body": body.encode(), "n": 1}
                )
        assert "division by zero" in str(caught.value)
        assert "ffff" not in redact(str(caught.value))
    finally:
        await engine.dispose()
