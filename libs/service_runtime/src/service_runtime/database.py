"""The database engine of a service: bounded in every wait, UTC, JSON through msgspec."""

import ssl
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
from sqlalchemy import event, text
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service_runtime.process_metrics import watch_pool
from service_runtime.settings import ServiceSettings

LOCK_TIMEOUT_MS: Final = 5_000
STATEMENT_TIMEOUT_MS: Final = 30_000
IDLE_IN_TRANSACTION_TIMEOUT_MS: Final = 30_000
CONNECT_TIMEOUT_SECONDS: Final = 10.0
COMMAND_TIMEOUT_SECONDS: Final = 60.0
"""Above the server's own statement timeout: it only ends waits on a server that no longer answers."""
POOL_TIMEOUT_SECONDS: Final = 10.0
_TAKES_WRITES: Final = text("SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'")
_TLS_PARAMETERS: Final = frozenset({"sslmode", "sslrootcert"})


class DatabaseReadOnly(Exception):
    """The database answers, and takes no writes."""


def create_engine(settings: ServiceSettings) -> AsyncEngine:
    """The one engine of a process. Connections are opened when first used; dispose of it when the service stops."""
    engine = engine_for(
        settings.database_url.get_secret_value(),
        application_name=f"reelhouse-{settings.service}",
        pool_size=settings.database_pool_size,
        statement_cache_size=settings.database_statement_cache_size,
    )
    watch_pool(settings.service, engine, settings.database_pool_size)
    return engine


def engine_for(
    dsn: str,
    *,
    application_name: str,
    pool_size: int = 1,
    statement_cache_size: int = 100,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
) -> AsyncEngine:
    """An engine for ``dsn``, for tools that have no settings object. No limit is ever off by default."""
    engine = create_async_engine(
        sqlalchemy_url(dsn),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        # The connection used last is used next, so that an idle service needs few.
        pool_use_lifo=True,
        # Errors are logged, and the values are prompts, callback bodies and signed addresses.
        hide_parameters=True,
        json_serializer=_encode_json,
        json_deserializer=msgspec.json.decode,
        connect_args={
            "timeout": CONNECT_TIMEOUT_SECONDS,
            "command_timeout": COMMAND_TIMEOUT_SECONDS + statement_timeout_ms / 1000,
            "server_settings": {
                "application_name": application_name,
                "timezone": "UTC",
                # Our statements want one plan whatever their parameters are. Left alone, the server plans most of them
                # anew each time: a list of one costs less than the list of ten that the plan for all cases assumes.
                # What a partial index is to match must therefore be written in the statement, not bound.
                "plan_cache_mode": "force_generic_plan",
                "lock_timeout": str(LOCK_TIMEOUT_MS),
                "statement_timeout": str(statement_timeout_ms),
                "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
            },
            **_statement_cache(statement_cache_size),
            **encryption(dsn),
        },
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed_connection)
    return engine


def sqlalchemy_url(dsn: str) -> str:
    """``dsn`` as SQLAlchemy wants it for asyncpg. What libpq says of TLS there, ``encryption`` reads."""
    parts = urlsplit(dsn)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name not in _TLS_PARAMETERS]
    return urlunsplit(parts._replace(scheme="postgresql+asyncpg", query=urlencode(query)))


def database_check(engine: AsyncEngine) -> Callable[[], Awaitable[None]]:
    """A readiness check: the database answers and takes writes. Raises DatabaseReadOnly for a standby, for example."""

    async def check() -> None:
        async with engine.connect() as connection:
            if not await connection.scalar(_TAKES_WRITES):
                raise DatabaseReadOnly("the database takes no writes: it is a standby, or set to read-only")

    return check


def encryption(dsn: str) -> dict[str, Any]:
    """libpq's ``sslmode`` and ``sslrootcert`` as what asyncpg takes: a mode, or a context that verifies the server.

    ``verify-ca`` and ``verify-full`` without ``sslrootcert`` trust what the system trusts, as libpq does with
    ``sslrootcert=system``. An unknown mode is refused by the driver.
    """
    parameters = dict(parse_qsl(urlsplit(dsn).query))
    mode = parameters.get("sslmode")
    if mode is None:
        return {}
    if mode not in ("verify-ca", "verify-full"):
        return {"ssl": mode}
    root = parameters.get("sslrootcert", "system")
    context = ssl.create_default_context(cafile=None if root == "system" else root)
    context.check_hostname = mode == "verify-full"
    return {"ssl": context}


def _encode_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _statement_cache(size: int) -> dict[str, Any]:
    options: dict[str, Any] = {"prepared_statement_cache_size": size, "statement_cache_size": size}
    if size == 0:
        # Behind a pooler another client may have taken the driver's numbered names on the same server connection.
        options["prepared_statement_name_func"] = lambda: f"reelhouse_{uuid.uuid4().hex}"
    return options


def _refuse_closed_connection(dbapi_connection: Any, _record: Any, _proxy: Any) -> None:
    """After a restart of the database every pooled connection is dead, and the driver knows it without a round trip."""
    if dbapi_connection.driver_connection.is_closed():
        raise InvalidatePoolError("the server closed this connection")
