"""Alembic under an advisory lock, for one schema at a time."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from sqlalchemy import text

from service_runtime.migrations import NoMigrationDatabase, migrate
from tests.support.databases import MakeDatabase
from tests.support.waiting import eventually

ENVIRONMENT = """
from service_runtime.migrations import run_environment

run_environment(schema="billing")
"""

REVISION = """
from alembic import op

revision = "{revision}"
down_revision = {before!r}


def upgrade():
    op.execute("{statement}")
"""

OUTSIDE_A_TRANSACTION = """
def upgrade():
    with op.get_context().autocommit_block():
        op.execute("{statement}")
"""


AddMigration = Callable[[str], str]
"""Add a migration of one statement; the result is the name of the package."""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddMigration]:
    """An importable package with migrations; call the result to add one."""
    name = "probe_migrations_package"
    versions = tmp_path / name / "migrations" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "migrations" / "env.py").write_text(ENVIRONMENT)
    (tmp_path / name / "migrations" / "script.py.mako").touch()
    monkeypatch.syspath_prepend(tmp_path)
    revisions: list[str] = []

    def add(statement: str) -> str:
        revision = f"{len(revisions) + 1:04}"
        before = revisions[-1] if revisions else None
        text = REVISION.format(revision=revision, before=before, statement=statement)
        if "CONCURRENTLY" in statement:
            text += OUTSIDE_A_TRANSACTION.format(statement=statement)
        (versions / f"{revision}.py").write_text(text)
        revisions.append(revision)
        return name

    yield add
    sys.modules.pop(name, None)


async def versions_of(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        return [row[0] for row in await connection.fetch("SELECT version_num FROM billing.alembic_version")]
    finally:
        await connection.close()


async def test_the_version_is_kept_inside_the_schema_and_a_second_run_changes_nothing(
    make_database: MakeDatabase, package: AddMigration
) -> None:
    database = await make_database()
    dsn = database.dsn("billing_migrator")
    name = package("CREATE TABLE billing.things (id int)")
    await asyncio.to_thread(migrate, name, dsn)
    assert await versions_of(dsn) == ["0001"]
    package("CREATE TABLE billing.others (id int)")
    await asyncio.to_thread(migrate, name, dsn)
    await asyncio.to_thread(migrate, name, dsn)
    assert await versions_of(dsn) == ["0002"]


async def test_several_replicas_that_migrate_at_once_take_turns(
    make_database: MakeDatabase, package: AddMigration
) -> None:
    database = await make_database()
    dsn = database.dsn("billing_migrator")
    name = package("CREATE TABLE billing.things (id int)")
    program = f"from service_runtime.migrations import migrate; migrate({name!r}, {dsn!r})"
    environment = {"PYTHONPATH": sys.path[0], "PATH": "/usr/bin:/bin"}
    replicas = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, env=environment, stderr=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    results = await asyncio.gather(*(replica.communicate() for replica in replicas))
    assert [replica.returncode for replica in replicas] == [0, 0, 0, 0], results
    assert await versions_of(dsn) == ["0001"]


@pytest.mark.parametrize("place", ["_upgrade_patiently", "_report"], ids=["after its turn came", "in a transaction"])
async def test_a_migration_that_is_frozen_holds_up_nobody_for_long(
    make_database: MakeDatabase, package: AddMigration, place: str
) -> None:
    database = await make_database()
    dsn = database.dsn("billing_migrator")
    name = package("CREATE TABLE billing.things (id int)")
    await asyncio.to_thread(migrate, name, dsn)
    package("ALTER TABLE billing.things ADD COLUMN more int")
    program = (
        "import os, signal; from service_runtime import migrations; migrations.IDLE_TIMEOUT_MS = 300;"
        f" migrations.{place} = lambda *_, **__: os.kill(os.getpid(), signal.SIGSTOP);"
        f" migrations.migrate({name!r}, {dsn!r})"
    )
    frozen = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env={"PYTHONPATH": sys.path[0], "PATH": "/usr/bin:/bin"}
    )
    try:
        await eventually(lambda: psutil.Process(frozen.pid).status() == psutil.STATUS_STOPPED, timeout=30)
        async with asyncio.timeout(20):
            await asyncio.to_thread(migrate, name, dsn)
    finally:
        frozen.kill()
        await frozen.wait()
    assert await versions_of(dsn) == ["0002"]


async def test_a_migration_that_fails_leaves_the_ones_before_it(
    make_database: MakeDatabase, package: AddMigration
) -> None:
    database = await make_database()
    dsn = database.dsn("billing_migrator")
    package("CREATE TABLE billing.things (id int)")
    name = package("CREATE TABLE billing.things (id int)")
    with pytest.raises(Exception, match="already exists"):
        await asyncio.to_thread(migrate, name, dsn)
    assert await versions_of(dsn) == ["0001"]


async def test_a_release_that_was_put_back_leaves_the_newer_schema_alone(
    make_database: MakeDatabase, package: AddMigration, capsys: pytest.CaptureFixture[str]
) -> None:
    database = await make_database()
    dsn = database.dsn("billing_migrator")
    name = package("CREATE TABLE billing.things (id int)")
    await asyncio.to_thread(migrate, name, dsn)
    async with database.superuser_engine().begin() as superuser:
        await superuser.execute(text("UPDATE billing.alembic_version SET version_num = '9999'"))
    await asyncio.to_thread(migrate, name, dsn)
    assert "schema billing is at 9999, which is newer than this release" in capsys.readouterr().err
    assert await versions_of(dsn) == ["9999"]


async def test_a_migration_does_not_queue_behind_a_lock_for_ever(
    make_database: MakeDatabase, package: AddMigration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service_runtime.migrations.LOCK_TIMEOUT_MS", 100)
    monkeypatch.setattr("service_runtime.migrations.LOCK_TRIES", 1)
    database = await make_database()
    dsn = database.dsn("billing_migrator")
    name = package("CREATE TABLE billing.things (id int)")
    await asyncio.to_thread(migrate, name, dsn)
    package("ALTER TABLE billing.things ADD COLUMN more int")
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE billing.things IN ACCESS SHARE MODE")
            with pytest.raises(Exception, match="lock timeout"):
                await asyncio.to_thread(migrate, name, dsn)
    finally:
        await connection.close()


async def test_a_migration_that_waits_for_a_lock_lets_others_pass_and_succeeds(
    make_database: MakeDatabase,
    package: AddMigration,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("service_runtime.migrations.LOCK_TIMEOUT_MS", 100)
    database = await make_database()
    dsn = database.dsn("billing_migrator")
    name = package("CREATE TABLE billing.things (id int)")
    await asyncio.to_thread(migrate, name, dsn)
    package("ALTER TABLE billing.things ADD COLUMN more int")
    said: list[str] = []

    def waits() -> bool:
        said.append(capsys.readouterr().err)
        return "a migration of billing waits for a lock, try 1" in "".join(said)

    reader, other = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        async with reader.transaction():
            await reader.execute("LOCK TABLE billing.things IN ACCESS SHARE MODE")
            migrating = asyncio.create_task(asyncio.to_thread(migrate, name, dsn))
            await eventually(waits, what="the first try that is given up")
            # Between two tries, and within the lock timeout during one, the table can be used.
            await other.execute("SELECT FROM billing.things", timeout=5)
        await migrating
    finally:
        await reader.close()
        await other.close()
    assert await versions_of(dsn) == ["0002"]


async def test_a_migration_makes_an_index_without_a_transaction(
    make_database: MakeDatabase, package: AddMigration
) -> None:
    database = await make_database()
    dsn = database.dsn("billing_migrator")
    package("CREATE TABLE billing.things (id int)")
    package("CREATE INDEX CONCURRENTLY things_by_id ON billing.things (id)")
    name = package("ALTER TABLE billing.things ADD COLUMN more int")
    await asyncio.to_thread(migrate, name, dsn)
    assert await versions_of(dsn) == ["0003"]


def test_without_a_connection_string_the_variable_is_named(
    package: AddMigration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BILLING_MIGRATION_DATABASE_URL", raising=False)
    with pytest.raises(NoMigrationDatabase, match="BILLING_MIGRATION_DATABASE_URL"):
        migrate("billing")
