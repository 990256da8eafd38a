"""A service meets its schema: as it needs it, older, newer, or not there at all."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import TypeAlias

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from contracts.message import SERVICES
from service_runtime import schema_version
from service_runtime.database import create_engine
from service_runtime.migrations import migrate
from service_runtime.schema_version import (
    SchemaOutdated,
    require_schema,
    require_schema_when_available,
    revisions,
    wait_for_schema,
)
from tests.service_runtime.settings import settings
from tests.support.databases import Database
from tests.support.fork_server import run_forked

MakeDatabase: TypeAlias = Callable[..., Awaitable[Database]]


async def require(database: Database) -> None:
    async with database.engine("billing").connect() as connection:
        await require_schema(connection, "billing")


async def test_the_run_time_role_sees_that_the_schema_is_up_to_date(make_database: MakeDatabase) -> None:
    await require(await make_database("billing"))


async def test_a_schema_without_tables_is_refused_with_the_command_that_makes_them(
    make_database: MakeDatabase,
) -> None:
    database = await make_database()
    with pytest.raises(SchemaOutdated, match=r"revision none.*python -m billing\.main migrate"):
        await require(database)


async def test_an_older_schema_is_refused(make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    database = await make_database("billing")
    known, newest = revisions("billing")
    monkeypatch.setattr(schema_version, "revisions", lambda _: (known | {"9999"}, "9999"))
    with pytest.raises(SchemaOutdated, match=f"revision {newest}, and this release needs 9999"):
        await require(database)


async def test_a_newer_schema_is_accepted(make_database: MakeDatabase) -> None:
    """Every old replica meets it during a rolling upgrade."""
    database = await make_database("billing")
    async with database.superuser_engine().begin() as connection:
        await connection.execute(sa.text("UPDATE billing.alembic_version SET version_num = '9999'"))
    await require(database)


async def test_every_service_accepts_a_newer_schema_and_refuses_one_without_tables(
    make_database: MakeDatabase,
) -> None:
    database = await make_database(*SERVICES)
    for service in SERVICES:
        main = files(service).joinpath("main.py").read_text()
        assert f'schema="{service}"' in main, f"{service} looks at no schema when it starts"
        for version, accepted in (("9999", True), (None, False)):
            async with database.superuser_engine().begin() as connection:
                await connection.execute(sa.text(f"DELETE FROM {service}.alembic_version"))
                if version is not None:
                    await connection.execute(sa.text(f"INSERT INTO {service}.alembic_version VALUES ('{version}')"))
            async with database.engine(service).connect() as connection:
                expected = contextlib.nullcontext() if accepted else pytest.raises(SchemaOutdated)
                with expected:
                    await require_schema(connection, service)


async def test_who_waits_for_the_schema_goes_on_when_it_is_there(make_database: MakeDatabase) -> None:
    database = await make_database()
    waiting = asyncio.create_task(wait_for_schema(database.engine("billing"), "billing", seconds=30))
    await asyncio.to_thread(migrate, "billing", database.dsn("billing_migrator"))
    await waiting


async def test_who_waits_in_vain_is_told_why(make_database: MakeDatabase) -> None:
    database = await make_database()
    with pytest.raises(SchemaOutdated):
        await wait_for_schema(database.engine("billing"), "billing", seconds=0.1)


async def run_billing(database: Database, *arguments: str) -> tuple[int, str]:
    """Exit code and output of ``python -m billing.main …`` against a database that may not be ready for it."""
    ended = await run_forked(
        "billing.main",
        *arguments,
        environment={
            "BILLING_DATABASE_URL": database.dsn("billing"),
            "BILLING_NATS_URL": "nats://127.0.0.1:1",
            "BILLING_NATS_USER": "billing",
            "BILLING_NATS_PASSWORD": "never asked for",
            "BILLING_OPS_PORT": "0",
        },
    )
    return ended.code, ended.output + ended.errors


async def test_a_service_refuses_to_start_on_an_older_schema(make_database: MakeDatabase) -> None:
    code, output = await run_billing(await make_database(), "serve")
    assert code == 1
    assert "python -m billing.main migrate" in output


async def test_the_check_of_a_deployment_tells_old_from_new(make_database: MakeDatabase) -> None:
    code, output = await run_billing(await make_database(), "migrate", "--check")
    assert code == 1
    assert "python -m billing.main migrate" in output
    code, output = await run_billing(await make_database("billing"), "migrate", "--check", "--wait-seconds", "30")
    assert (code, output) == (0, "")


async def test_the_check_leaves_the_gauge_to_the_pool_of_the_service(make_database: MakeDatabase) -> None:
    database = await make_database("billing")
    chosen = settings(database_url=database.dsn("billing"))
    engine = create_engine(chosen)
    try:
        await require_schema_when_available(chosen, "billing")
        async with engine.connect():
            assert REGISTRY.get_sample_value("database_pool_in_use_connections", {"service": chosen.service}) == 1
    finally:
        await engine.dispose()
