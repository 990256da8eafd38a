"""Which version of its schema a service needs, and which one the database has.

A rolling upgrade runs old and new code side by side on one schema. So the two directions differ:

- The schema is *older* than the code: the code would fail somewhere in the middle. The service refuses to start.
- The schema is *newer* than the code: that is every old replica during an upgrade, and every roll-back. It runs,
  because a migration only ever expands what older code uses (docs/deploy.md).

Alembic is not imported: a serving process has no other use for it.
"""

import asyncio
import re
from importlib.resources import files
from typing import Final

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service_runtime.database import ENGINE_ERRORS, engine_for
from service_runtime.settings import ServiceSettings

_REVISION: Final = re.compile(r'^revision\s*(?::\s*str\s*)?=\s*"([^"]+)"', re.MULTILINE)
_DOWN_REVISION: Final = re.compile(r'^down_revision\s*(?::[^=]+)?=\s*"([^"]+)"', re.MULTILINE)
_UNDEFINED_TABLE: Final = "42P01"
_POLL_SECONDS: Final = 0.5

log = structlog.get_logger(__name__)


class SchemaOutdated(Exception):
    """The schema lacks migrations that this code needs; the message names the command that runs them."""


def revisions(package: str) -> tuple[frozenset[str], str]:
    """Every revision in ``<package>/migrations/versions``, and the last one of the chain."""
    scripts = [
        script.read_text()
        for script in files(package).joinpath("migrations", "versions").iterdir()
        if script.name.endswith(".py") and script.name != "__init__.py"
    ]
    known = {match.group(1) for script in scripts if (match := _REVISION.search(script))}
    replaced = {match.group(1) for script in scripts if (match := _DOWN_REVISION.search(script))}
    (newest,) = known - replaced
    return frozenset(known), newest


async def require_schema(connection: AsyncConnection, package: str) -> None:
    """Raise SchemaOutdated if the schema of ``package`` is older than its code. A newer one is fine."""
    known, newest = revisions(package)
    found = await _find_revision(connection, package)
    if found is None or (found in known and found != newest):
        raise SchemaOutdated(
            f"schema {package} is at revision {found or 'none'}, and this release needs {newest}:"
            f" run `python -m {package}.main migrate` with {package.upper()}_MIGRATION_DATABASE_URL first"
        )


async def wait_for_schema(engine: AsyncEngine, package: str, seconds: float) -> None:
    """Return when the schema is new enough; raise what stands against it after ``seconds``, an absent database too."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            async with engine.connect() as connection:
                return await require_schema(connection, package)
        except Exception:
            if asyncio.get_running_loop().time() >= deadline:
                raise
        await asyncio.sleep(_POLL_SECONDS)


async def require_schema_when_available(settings: ServiceSettings, package: str) -> None:
    """:func:`require_schema` for a service that starts: it waits for as long as the database is away."""
    # Not ``create_engine``: the pool that the metrics watch is the service's own.
    engine = engine_for(
        settings.database_url.get_secret_value(),
        application_name=f"reelhouse-{settings.service}-schema",
        statement_cache_size=settings.database_statement_cache_size,
    )
    try:
        while True:
            try:
                async with engine.connect() as connection:
                    return await require_schema(connection, package)
            except ProgrammingError:
                raise
            except ENGINE_ERRORS as error:
                log.warning("database_awaited", reason=f"{type(error).__name__}: {error}")
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        await engine.dispose()


async def _find_revision(connection: AsyncConnection, schema: str) -> str | None:
    table = sa.table("alembic_version", sa.column("version_num"), schema=schema)
    try:
        found = await connection.scalar(sa.select(table.c.version_num))
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != _UNDEFINED_TABLE:
            raise
        return None
    return None if found is None else str(found)
