"""Alembic for a service: its own schema, its own version table, one migration run at a time.

A service's ``migrations/env.py`` is::

    from service_runtime.migrations import run_environment

    run_environment(schema="billing")

Alembic is imported when a migration runs, and not before: a serving process has no use for it.
"""

import asyncio
import os
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from service_runtime.database import encryption, sqlalchemy_url

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext, MigrationInfo
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

LOCK_TIMEOUT_MS: Final = 5_000
"""A migration that cannot have its lock soon must fail rather than queue up everybody behind it."""
TURN_TIMEOUT_SECONDS: Final = 120.0
_TURN_POLL_SECONDS: Final = 0.2


class MigrationsBusy(Exception):
    """Another process has been migrating the same schema for longer than ``TURN_TIMEOUT_SECONDS``."""


class NoMigrationDatabase(Exception):
    """No connection string was given for the migrations."""


def migrate(package: str, dsn: str | None = None, revision: str = "head") -> None:
    """Bring the schema of ``package`` up to ``revision`` with the scripts in ``<package>/migrations``.

    ``dsn`` belongs to the role that owns the schema; by default it is ``<PACKAGE>_MIGRATION_DATABASE_URL``. Repeatable,
    and safe to run from several processes at once: they take turns. Blocks, so call it in a thread from async code.
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


def run_environment(schema: str) -> None:
    """What ``env.py`` calls: run the pending migrations, each in a transaction of its own, under an advisory lock."""
    from alembic import context

    asyncio.run(_run(schema, context.config.attributes["dsn"]))


async def _run(schema: str, dsn: str) -> None:
    engine = create_async_engine(
        sqlalchemy_url(dsn),
        poolclass=NullPool,
        connect_args={
            "server_settings": {
                "application_name": f"reelhouse-migrate-{schema}",
                "lock_timeout": str(LOCK_TIMEOUT_MS),
            },
            **encryption(dsn),
        },
    )
    try:
        async with engine.connect() as connection:
            await _take_turn(connection, schema)
            await connection.run_sync(_upgrade, schema)
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


def _upgrade(connection: "Connection", schema: str) -> None:
    from alembic import context

    context.configure(
        connection=connection,
        version_table_schema=schema,
        transaction_per_migration=True,
        on_version_apply=_report,
    )
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
