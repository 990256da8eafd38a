"""Alembic for a service: its own schema, its own version table, one migration run at a time.

A service's ``migrations/env.py`` is::

    from service_runtime.migrations import run_environment

    run_environment(schema="billing")

A migration runs while the release before it serves (docs/deploy.md). So it waits for no lock for long, because
everybody else's statements queue up behind it: it gives up, lets them pass, and tries again.

Alembic is imported when a migration runs, and not before: a serving process has no use for it.
"""

import asyncio
import io
import os
import sys
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from service_runtime.backoff import Backoff
from service_runtime.database import CONNECT_TIMEOUT_SECONDS, WatchedConnection, encryption, sqlalchemy_url

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext, MigrationInfo
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

LOCK_TIMEOUT_MS: Final = 1_000
"""The longest that a migration holds up the statements that queue behind it for its lock."""
LOCK_TRIES: Final = 20
"""How often a migration tries for its locks: for about a minute in all. Then the Job fails, and is started again."""
LOCK_BACKOFF: Final = Backoff(first=timedelta(seconds=0.5), longest=timedelta(seconds=3))
IDLE_TIMEOUT_MS: Final = 30_000
"""A migration pauses for 3 s at most. The session of one that is frozen ends, and with it its locks and its turn."""
TURN_TIMEOUT_SECONDS: Final = 120.0
_TURN_POLL_SECONDS: Final = 0.2
_LOCK_NOT_AVAILABLE: Final = "55P03"


class MigrationsBusy(Exception):
    """Another process has been migrating the same schema for longer than ``TURN_TIMEOUT_SECONDS``."""


class NoMigrationDatabase(Exception):
    """No connection string was given for the migrations."""


def migrate(package: str, dsn: str | None = None, revision: str = "head") -> None:
    """Bring the schema of ``package`` up to ``revision`` with the scripts in ``<package>/migrations``.

    ``dsn`` belongs to the role that owns the schema; by default it is ``<PACKAGE>_MIGRATION_DATABASE_URL``. Repeatable,
    and safe to run from several processes at once: they take turns. A schema that is newer than the scripts stays as it
    is. Blocks, so call it in a thread from async code.
    """
    from alembic import command
    from alembic.config import Config

    variable = f"{package.upper()}_MIGRATION_DATABASE_URL"
    target = dsn or os.environ.get(variable)
    if not target:
        raise NoMigrationDatabase(f"set {variable} to a connection string of the role that owns schema {package}")
    config = Config()
    config.set_main_option("script_location", f"{package}:migrations")
    config.attributes["dsn"] = target
    command.upgrade(config, revision)


def migration_sql(package: str, revisions: str = "base:head") -> str:
    """The SQL of the migrations from one revision to another (``"0001:0002"``), to be read; connects to nothing."""
    from alembic import command
    from alembic.config import Config

    written = io.StringIO()
    config = Config(output_buffer=written)
    config.set_main_option("script_location", f"{package}:migrations")
    command.upgrade(config, revisions, sql=True)
    return written.getvalue()


def run_environment(schema: str) -> None:
    """What ``env.py`` calls: run the pending migrations, each in a transaction of its own, under an advisory lock."""
    from alembic import context

    if context.is_offline_mode():
        _write_sql(schema)
    else:
        asyncio.run(_run(schema, context.config.attributes["dsn"]))


def _write_sql(schema: str) -> None:
    from alembic import context

    context.configure(
        dialect_name="postgresql", literal_binds=True, version_table_schema=schema, transaction_per_migration=True
    )
    context.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
    with context.begin_transaction():
        context.run_migrations()


async def _run(schema: str, dsn: str) -> None:
    engine = create_async_engine(
        sqlalchemy_url(dsn),
        poolclass=NullPool,
        connect_args={
            "timeout": CONNECT_TIMEOUT_SECONDS,
            "connection_class": WatchedConnection,
            "server_settings": {
                "application_name": f"reelhouse-migrate-{schema}",
                "lock_timeout": str(LOCK_TIMEOUT_MS),
                "idle_in_transaction_session_timeout": str(IDLE_TIMEOUT_MS),
                "idle_session_timeout": str(IDLE_TIMEOUT_MS),
            },
            **encryption(dsn),
        },
    )
    try:
        async with engine.connect() as connection:
            await _take_turn(connection, schema)
            await _upgrade_patiently(connection, schema)
    finally:
        await engine.dispose()


async def _take_turn(connection: "AsyncConnection", schema: str) -> None:
    """Take the advisory lock of this schema. It is the session's: closing the connection gives it up.

    Polled outside any transaction, because a session that waits inside one would block CREATE INDEX CONCURRENTLY.
    """
    deadline = asyncio.get_running_loop().time() + TURN_TIMEOUT_SECONDS
    attempt = text("SELECT pg_try_advisory_lock(hashtext('reelhouse.migrations'), hashtext(:schema))")
    while True:
        taken = await connection.scalar(attempt, {"schema": schema})
        await connection.commit()
        if taken:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise MigrationsBusy(f"another process has been migrating schema {schema} for {TURN_TIMEOUT_SECONDS:g} s")
        await asyncio.sleep(_TURN_POLL_SECONDS)


async def _upgrade_patiently(connection: "AsyncConnection", schema: str) -> None:
    """Run the migrations; one that does not get its locks is rolled back and tried again, those before it stay."""
    for tries in range(1, LOCK_TRIES + 1):
        try:
            return await connection.run_sync(_upgrade, schema)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE or tries == LOCK_TRIES:
                raise
            await connection.rollback()
            sys.stderr.write(f"a migration of {schema} waits for a lock, try {tries} of {LOCK_TRIES}\n")
        await asyncio.sleep(LOCK_BACKOFF.delay(tries).total_seconds())
    return None


def _upgrade(connection: "Connection", schema: str) -> None:
    from alembic import context

    context.configure(
        connection=connection,
        version_table_schema=schema,
        transaction_per_migration=True,
        on_version_apply=_report,
    )
    found = context.get_context().get_current_revision()
    connection.rollback()
    if found is not None and found not in {script.revision for script in context.script.walk_revisions()}:
        # A release that was put back: its Job is started again once the first one is gone.
        sys.stderr.write(f"schema {schema} is at {found}, which is newer than this release: nothing is migrated\n")
        return
    with context.begin_transaction():
        context.run_migrations()
    # The service reads which version it meets (schema_version.py). A role of the schema's name is its run-time role.
    if connection.scalar(text("SELECT true FROM pg_roles WHERE rolname = :name"), {"name": schema}):
        connection.execute(text(f'GRANT SELECT ON "{schema}".alembic_version TO "{schema}"'))
        connection.commit()


def _report(
    ctx: "MigrationContext", step: "MigrationInfo", heads: Collection[Any], run_args: Mapping[str, Any]
) -> None:
    # Standard output belongs to the command that migrates, and the log is not configured here.
    sys.stderr.write(f"applied migration {step.up_revision_id} of {ctx.version_table_schema}\n")
