"""Whether the database answers, takes writes, and what time it is there: asked once a second, beside the pool.

Readiness must not ask through the pool. Under overload every connection is in use, the check would wait with the
requests, and all replicas would be taken out of service at once. So one connection of its own asks, and readiness
reads the last answer.

The same connection notices *silence*. A connection can be cut without a word: a firewall forgets it, a proxy or the
old primary freezes. Nothing is refused or reset, so statements wait for their timeout. When a question is not
answered in time, and a fresh connection is, the older connections lead nowhere: they are closed, and what waits on them
fails at once and is tried again.
"""

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import asyncpg
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from service_runtime.database import DRIVER_ERRORS, DatabaseReadOnly, close_older_connections, connect_once
from service_runtime.process_metrics import CLOCK_OFFSET, SILENT_CONNECTIONS, WRITABLE
from service_runtime.settings import ServiceSettings

ASK_SECONDS: Final = 1.0
SILENCE_SECONDS: Final = 3.0
"""A question without an answer for so long is worth a second connection."""
GRACE_SECONDS: Final = 1.0
"""A database that was slow or frozen answers the old question too, once it answers the new one."""
STALE_SECONDS: Final = 10.0
"""Readiness fails when the last answer is older. A database that is only slow does not take all replicas out."""
NOTABLE_OFFSET_SECONDS: Final = 1.0

_QUESTION: Final = (
    "SELECT clock_timestamp(), pg_is_in_recovery(), current_setting('transaction_read_only') = 'on' AS read_only"
)

log = structlog.get_logger(__name__)


class DatabaseNotReady(Exception):
    """The database does not answer, or did not the last time it was asked."""


class DatabaseClock:
    """The database's time, as far as this process knows it. Deadlines of others' making are compared with it.

    The host's clock may be wrong by an hour after a restore or without NTP. The database's is one for all services.
    """

    def __init__(self) -> None:
        self.offset_seconds = 0.0
        """How far the database's clock is ahead of this host's. 0 until the database has answered once."""

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time() + self.offset_seconds


class DatabaseWatch:
    """Component that asks once a second. ``ready`` is the readiness check, ``clock`` the time."""

    name = "database-watch"

    def __init__(self, settings: ServiceSettings, *engines: AsyncEngine) -> None:
        self.clock = DatabaseClock()
        self._settings = settings
        self._engines = engines
        self._connection: asyncpg.Connection | None = None
        self._failure: Exception = DatabaseNotReady("the database has not been asked yet")
        self._failing = True
        self._answered_at = float("-inf")
        # From now on: while a process waits for its schema, nothing asks yet.
        WRITABLE.labels(settings.service).set_function(self._writable)

    async def run(self) -> None:
        """Ask until cancelled."""
        CLOCK_OFFSET.labels(self._settings.service).set(0)
        SILENT_CONNECTIONS.labels(self._settings.service)
        try:
            while True:
                await self._ask()
                await asyncio.sleep(ASK_SECONDS)
        finally:
            self._disconnect()

    async def ready(self) -> Mapping[str, float]:
        """Facts about the database. Raises DatabaseNotReady, DatabaseReadOnly, or what the driver said last."""
        if self._failing:
            raise self._failure
        age = self._age()
        if age > STALE_SECONDS:
            raise DatabaseNotReady(f"the database has not answered for {age:.0f} s")
        return {"clock_offset_seconds": round(self.clock.offset_seconds, 3)}

    def _writable(self) -> bool:
        return not self._failing and self._age() <= STALE_SECONDS

    def _age(self) -> float:
        return time.monotonic() - self._answered_at

    async def _ask(self) -> None:
        try:
            if self._connection is None:
                self._connection = await self._connect()
            await self._ask_on(self._connection)
        except (*DRIVER_ERRORS, DatabaseReadOnly) as error:
            # The next question is asked on a fresh connection: the address may lead to another server by then.
            self._disconnect()
            self._fail(error)

    async def _ask_on(self, connection: asyncpg.Connection) -> None:
        asked_at = time.monotonic()
        question = asyncio.create_task(self._question(connection))
        try:
            patience = SILENCE_SECONDS
            while not (await asyncio.wait({question}, timeout=patience))[0]:
                if await self._others_are_answered(question, asked_at):
                    return
                patience = ASK_SECONDS
            await question
        finally:
            question.cancel()

    async def _others_are_answered(self, question: "asyncio.Task[None]", asked_at: float) -> bool:
        """Whether a fresh connection is answered while ``question`` is not: then it replaces the older ones."""
        try:
            fresh = await self._connect()
        except DRIVER_ERRORS as error:
            log.warning("database_silent", reason=f"{type(error).__name__}: {error}")
            return False
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await self._question(fresh)
            await asyncio.wait({question}, timeout=GRACE_SECONDS)
            if question.done():
                return False
            self._disconnect()
            self._connection = fresh
        except (*DRIVER_ERRORS, DatabaseReadOnly):
            return False
        finally:
            # Also when the watch is stopped meanwhile.
            if self._connection is not fresh:
                fresh.terminate()
        closed = sum(close_older_connections(engine, asked_at) for engine in self._engines)
        SILENT_CONNECTIONS.labels(self._settings.service).inc(closed + 1)
        log.error("silent_database_connections_closed", connections=closed + 1)
        return True

    async def _question(self, connection: asyncpg.Connection) -> None:
        began = time.time()
        row = await connection.fetchrow(_QUESTION)
        assert row is not None
        ended = time.time()
        self._answered_at = time.monotonic()
        if row["pg_is_in_recovery"] or row["read_only"]:
            raise DatabaseReadOnly("the database takes no writes: it is a standby, or set to read-only")
        self._set_clock(row["clock_timestamp"], began, ended)
        self._failing = False

    def _set_clock(self, database_time: datetime, began: float, ended: float) -> None:
        offset = database_time.timestamp() - (began + ended) / 2
        if ended - began > NOTABLE_OFFSET_SECONDS:
            return  # The answer was too slow to say when it was given.
        if abs(offset - self.clock.offset_seconds) > NOTABLE_OFFSET_SECONDS:
            log.warning("clock_differs_from_database", offset_seconds=round(offset, 3))
        self.clock.offset_seconds = offset
        CLOCK_OFFSET.labels(self._settings.service).set(offset)

    async def _connect(self) -> asyncpg.Connection:
        return await connect_once(self._settings, timeout_seconds=SILENCE_SECONDS)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def _fail(self, error: Exception) -> None:
        if not self._failing or type(error) is not type(self._failure):
            log.warning("database_not_ready", reason=f"{type(error).__name__}: {error}")
        self._failing, self._failure = True, error
