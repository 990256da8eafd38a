"""Connections to the database, and which of its errors say nothing about the work that met them."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from typing import Final

import asyncpg
import sqlalchemy.exc
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn

from messaging.errors import DatabaseUnavailableError
from service_runtime.database import ENGINE_ERRORS, says_away, sqlstate
from service_runtime.fair_pool import FairPool

LOCK_TIMEOUT: Final = "55P03"
STATEMENT_TIMEOUT: Final = "57014"
_CONTENDED_STATES: Final = (LOCK_TIMEOUT, STATEMENT_TIMEOUT)
"""Another transaction has the rows, or the server is too busy for this much work: a part of it may succeed now."""

_TRANSIENT_STATES: Final = ("40001", "40P01", "25P03", "25P04", "53", *_CONTENDED_STATES)
"""Serialization failure, deadlock, timeouts of an idle and of a long transaction, resources, and the two above."""

_BROKEN_CONNECTION: Final = asyncpg.InterfaceError | asyncpg.InternalClientError

DATABASE_ERRORS: Final = (DatabaseUnavailableError, *ENGINE_ERRORS)
"""All that a database can answer with, or not answer: a timeout of the driver's is an OSError, and no SQLAlchemyError.
For a component that must outlive whatever becomes of the database."""


async def connect(engine: AsyncEngine) -> AsyncConnection:
    """A connection from the pool. Raises DatabaseUnavailableError if none is to be had."""
    return await _checked_out(engine, engine.sync_engine.connect)


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """BEGIN, COMMIT at a clean exit, ROLLBACK otherwise. For messaging's own bookkeeping; services use Transactions."""
    connection = await _checked_out(engine, partial(_begin, engine.sync_engine))
    try:
        yield connection
    except BaseException:
        # That rolls back.
        await connection.close()
        raise
    await greenlet_spawn(_commit, connection.sync_connection)


@asynccontextmanager
async def single_statements(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection on which each statement is a transaction of its own: one round trip instead of three."""
    connection = await connect(_autocommitting(engine))
    try:
        yield connection
    finally:
        # Nothing is to be rolled back, so that nothing is sent.
        assert connection.sync_connection is not None
        connection.sync_connection.close()


async def _checked_out(engine: AsyncEngine, check_out: Callable[[], Connection]) -> AsyncConnection:
    """What ``check_out`` gives. To change to SQLAlchemy's own stack and back costs as much as a small statement.

    It is needed only where there is something to wait for.
    """
    pool = engine.sync_engine.pool
    assert isinstance(pool, FairPool)
    try:
        sync = check_out() if pool.gives_at_once() else await greenlet_spawn(check_out)
        return AsyncConnection(engine, sync)
    except ENGINE_ERRORS as error:
        raise DatabaseUnavailableError(f"no database connection: {type(error).__name__}: {error}") from error


def _begin(engine: Engine) -> Connection:
    connection = engine.connect()
    connection.begin()
    return connection


def _commit(connection: Connection) -> None:
    try:
        connection.commit()
    finally:
        connection.close()


@lru_cache(maxsize=8)
def _autocommitting(engine: AsyncEngine) -> AsyncEngine:
    """The same engine and pool. To make it costs as much as a statement; so does the same option on a connection."""
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def is_unavailable(error: BaseException) -> bool:
    """Whether ``error``, or what it was raised from, means: the same work may well succeed later, unchanged.

    A timeout or a broken connection counts too: inside a transaction, only the database is called.
    """
    return any(_is_transient(one) for one in _chain(error))


def is_contended(error: BaseException) -> bool:
    """Whether ``error`` is of the unavailable ones that a smaller transaction may escape now.

    A batch in which one row is locked waits for that row alone, so it is split. So is one that takes too long.
    """
    return any(sqlstate(one) in _CONTENDED_STATES for one in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, DatabaseUnavailableError | TimeoutError | ConnectionError | _BROKEN_CONNECTION):
        return True
    if isinstance(error, asyncpg.PostgresError):
        return _is_transient_state(error)
    if isinstance(error, sqlalchemy.exc.TimeoutError | sqlalchemy.exc.InterfaceError):
        return True
    if not isinstance(error, sqlalchemy.exc.DBAPIError):
        return False
    if error.connection_invalidated or isinstance(error.orig, OSError):
        return True
    return _is_transient_state(error)


def _is_transient_state(error: BaseException) -> bool:
    return says_away(error) or sqlstate(error).startswith(_TRANSIENT_STATES)
