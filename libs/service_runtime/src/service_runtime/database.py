"""The database engine of a service: bounded in every wait, UTC, JSON through msgspec."""

import asyncio
import socket
import ssl
import time
import uuid
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from weakref import WeakKeyDictionary, WeakSet

import asyncpg
import msgspec
from sqlalchemy import event
from sqlalchemy.engine import Engine, ExceptionContext
from sqlalchemy.exc import InvalidatePoolError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service_runtime.fair_pool import FairPool
from service_runtime.process_metrics import watch_pool
from service_runtime.settings import ServiceSettings

LOCK_TIMEOUT_MS: Final = 5_000
STATEMENT_TIMEOUT_MS: Final = 30_000
IDLE_IN_TRANSACTION_TIMEOUT_MS: Final = 30_000
STATEMENTS_PER_TRANSACTION: Final = 2
"""A transaction may take as long as so many statements of the greatest length (docs/decisions/0069).

Only that ends the session of a process that is frozen in the middle of a statement: the server waits for the rest of
it, so that no statement runs, and the session is not idle.
"""
_TRANSACTION_TIMEOUT_SINCE: Final = (17,)
"""The first version of PostgreSQL that has ``transaction_timeout``; an older one refuses the setting."""
CONNECT_TIMEOUT_SECONDS: Final = 5.0
"""During a fail-over a connection is opened to a server that says nothing: that must not hold a request for long."""
COMMAND_TIMEOUT_SECONDS: Final = 5.0
"""Above the server's own statement timeout: it only ends waits on a server that no longer answers."""
POOL_TIMEOUT_SECONDS: Final = 10.0
PEER_TIMEOUT_SECONDS: Final = 9
"""A peer whose host confirms nothing for so long is gone. Both sides watch: the server frees the locks of the other."""
_KEEPALIVE_IDLE_SECONDS: Final = 3
_KEEPALIVE_PROBES: Final = 2
READ_ONLY: Final = "25006"
"""A write met a standby, or a primary that takes none at the moment because its disk is full."""
_AWAY_STATES: Final = ("08", "53100", "53300", "57P", "58")
"""SQLSTATE: the connection, a full disk, too many connections, shutdown, the system. Not its memory and its temporary
files (53200, 53400): one statement may want too much of them, and is not to be repeated at once."""
_TLS_PARAMETERS: Final = frozenset({"sslmode", "sslrootcert"})


_OPENED: "Final[WeakKeyDictionary[Engine, WeakSet[WatchedConnection]]]" = WeakKeyDictionary()
"""The driver's connections of each engine, those in use included."""


DRIVER_ERRORS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""All that asyncpg raises of a server that is away, however it is away. A timeout is an OSError.

The last one comes of a server that has ended the session, said so while nothing was asked, and not closed the
connection yet: the driver waits for the end of that message, and takes no statement meanwhile.
"""
ENGINE_ERRORS: Final = (SQLAlchemyError, *DRIVER_ERRORS)
"""The same through an engine: while it connects, the driver's own errors come untranslated."""


class DatabaseReadOnly(Exception):
    """The database answers, and takes no writes."""


def sqlstate(error: BaseException) -> str:
    """The server's code for an error of the driver's, which SQLAlchemy may have wrapped; empty for other errors."""
    return str(getattr(getattr(error, "orig", error), "sqlstate", None) or "")


def says_away(error: BaseException) -> bool:
    """Whether the server says by ``error`` that it does no work for anybody: no connection, no disk, no writes."""
    state = sqlstate(error)
    return state == READ_ONLY or state.startswith(_AWAY_STATES)


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
    """An engine for ``dsn``, for tools that have no settings object. No limit is ever off by default.

    Work that may take long says so with ``statement_timeout_ms``: the limit of its transactions grows with it.
    """
    # Behind a transaction-mode pooler a SET would stay on a server connection that others get.
    is_own_session = statement_cache_size > 0
    transaction_timeout_ms = STATEMENTS_PER_TRANSACTION * statement_timeout_ms if is_own_session else 0
    engine = create_async_engine(
        sqlalchemy_url(dsn),
        poolclass=FairPool,
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
            **connection_arguments(dsn, application_name, statement_timeout_ms),
            **_statement_cache(statement_cache_size),
            "async_creator_fn": partial(_connect, transaction_timeout_ms),
        },
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed_connection)
    event.listen(engine.sync_engine, "handle_error", _give_up_connection)
    opened: WeakSet[WatchedConnection] = WeakSet()
    _OPENED[engine.sync_engine] = opened
    event.listen(engine.sync_engine, "connect", lambda connection, _record: opened.add(connection.driver_connection))
    return engine


def connection_arguments(dsn: str, application_name: str, statement_timeout_ms: int) -> dict[str, Any]:
    """What asyncpg is told for every connection, whoever opens it. 0 is no statement timeout, as for the server."""
    limited = statement_timeout_ms > 0
    return {
        "timeout": CONNECT_TIMEOUT_SECONDS,
        "command_timeout": COMMAND_TIMEOUT_SECONDS + statement_timeout_ms / 1000 if limited else None,
        "connection_class": WatchedConnection,
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
            "tcp_user_timeout": str(PEER_TIMEOUT_SECONDS * 1000),
            "tcp_keepalives_idle": str(_KEEPALIVE_IDLE_SECONDS),
            "tcp_keepalives_interval": str(_KEEPALIVE_IDLE_SECONDS),
            "tcp_keepalives_count": str(_KEEPALIVE_PROBES),
        },
        **encryption(dsn),
    }


async def _connect(transaction_timeout_ms: int, *arguments: Any, **options: Any) -> asyncpg.Connection:
    """A connection whose transactions end in time, 0 is never. Raises the driver's errors and OSError."""
    connection = await asyncpg.connect(*arguments, **options)
    if transaction_timeout_ms > 0 and connection.get_server_version() >= _TRANSACTION_TIMEOUT_SINCE:
        try:
            await connection.execute(
                f"SET transaction_timeout = {transaction_timeout_ms}", timeout=CONNECT_TIMEOUT_SECONDS
            )
        except BaseException:
            connection.terminate()
            raise
    return connection


async def connect_once(settings: ServiceSettings, *, timeout_seconds: float) -> asyncpg.Connection:
    """One connection outside of the pool, for statements that lock nothing; the caller closes it.

    Raises the driver's errors and OSError.
    """
    dsn = settings.database_url.get_secret_value()
    arguments = connection_arguments(dsn, f"reelhouse-{settings.service}-watch", STATEMENT_TIMEOUT_MS)
    # The whole of it is bounded, the choice among several hosts included.
    async with asyncio.timeout(timeout_seconds):
        return await asyncpg.connect(
            dsn,
            **(arguments | {"timeout": timeout_seconds}),
            statement_cache_size=settings.database_statement_cache_size,
        )


def close_older_connections(engine: AsyncEngine, monotonic: float) -> int:
    """Cut every connection of ``engine`` that was opened before that time; returns how many were still open.

    What waits on one fails at once, as if the server had closed it.
    """
    older = [one for one in _OPENED[engine.sync_engine] if one.opened_at < monotonic and not one.is_closed()]
    for connection in older:
        connection.terminate()
    return len(older)


class WatchedConnection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """asyncpg's connection, on a socket that notices a host that is gone."""

    def __init__(self, protocol: Any, transport: asyncio.Transport, *arguments: Any) -> None:
        super().__init__(protocol, transport, *arguments)
        self.opened_at = time.monotonic()
        opened = transport.get_extra_info("socket")
        if opened is not None and opened.family != getattr(socket, "AF_UNIX", None):
            _watch_peer(opened)


def _watch_peer(opened: socket.socket) -> None:
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # What a platform lacks (macOS has no TCP_USER_TIMEOUT) it does without.
    for option, value in {
        "TCP_KEEPIDLE": _KEEPALIVE_IDLE_SECONDS,
        "TCP_KEEPINTVL": _KEEPALIVE_IDLE_SECONDS,
        "TCP_KEEPCNT": _KEEPALIVE_PROBES,
        "TCP_USER_TIMEOUT": PEER_TIMEOUT_SECONDS * 1000,
    }.items():
        if hasattr(socket, option):
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def sqlalchemy_url(dsn: str) -> str:
    """``dsn`` as SQLAlchemy wants it for asyncpg. What libpq says of TLS there, ``encryption`` reads."""
    parts = urlsplit(dsn)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name not in _TLS_PARAMETERS]
    return urlunsplit(parts._replace(scheme="postgresql+asyncpg", query=urlencode(query)))


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


def _give_up_connection(context: ExceptionContext) -> None:
    """Three kinds of errors say that a connection is of no more use, and SQLAlchemy knows none of them.

    A timeout of the driver's: to cancel the statement the driver would wait for a server that says nothing.
    A driver that takes no statement: the server has ended the session (``DRIVER_ERRORS``).
    A write that was refused as read-only: the server was demoted, and the address may lead to another one by now.
    """
    error = context.original_exception
    if isinstance(error, TimeoutError):
        _terminate(context)
        context.is_disconnect, context.invalidate_pool_on_disconnect = True, False
    elif isinstance(error.__cause__, asyncpg.InternalClientError):
        _terminate(context)
        context.is_disconnect = True
    elif sqlstate(error) == READ_ONLY:
        context.is_disconnect = True


def _terminate(context: ExceptionContext) -> None:
    if context.connection is not None and not context.connection.invalidated:
        dbapi_connection = context.connection.connection.dbapi_connection
        assert dbapi_connection is not None
        dbapi_connection.driver_connection.terminate()
