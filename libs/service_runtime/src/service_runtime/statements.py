"""Statements that are sent as they are written, for the few that every order and every message needs.

SQLAlchemy's compiler, its result objects and its way between two stacks cost more than the driver and the network. A
:class:`Statement` goes to the driver on the same connection and in the same transaction as all other statements. Its
errors are SQLAlchemy's own, and a connection that they show to be broken is given up as ever.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util import greenlet_spawn

Record: TypeAlias = Any
"""asyncpg's row, which has no types: values by position, and by name as in a mapping."""

_NAME: Final = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)\b")


class Statement:
    """One statement. ``:name`` stands for a value; say its type with ``CAST`` where the server cannot tell."""

    def __init__(self, sql: str) -> None:
        self.names: Final = tuple(dict.fromkeys(_NAME.findall(sql)))
        numbers = {name: number for number, name in enumerate(self.names, start=1)}
        self.sql: Final = _NAME.sub(lambda found: f"${numbers[found[1]]}", sql)

    async def fetch(self, connection: AsyncConnection, values: Mapping[str, Any]) -> list[Record]:
        """All rows. ``connection`` must be in a transaction, or one on which each statement commits."""
        rows, _ = await self._run(connection, values)
        return rows

    async def fetch_last(self, connection: AsyncConnection, values: Mapping[str, Any]) -> list[Record]:
        """:meth:`fetch`, for the last statement of a transaction.

        If it is also the first, it is sent without BEGIN and commits by itself: the COMMIT that follows sends nothing.
        After an error its outcome is then unknown, as after one during COMMIT.
        """
        rows, _ = await self._run(connection, values, is_last=True)
        return rows

    async def fetch_one(self, connection: AsyncConnection, values: Mapping[str, Any]) -> Record | None:
        """The first row, if there is one."""
        rows, _ = await self._run(connection, values)
        return rows[0] if rows else None

    async def execute(self, connection: AsyncConnection, values: Mapping[str, Any]) -> int:
        """How many rows were written, or read."""
        _, prepared = await self._run(connection, values)
        return int(prepared.get_statusmsg().rpartition(" ")[2])

    async def _run(
        self, connection: AsyncConnection, values: Mapping[str, Any], *, is_last: bool = False
    ) -> tuple[list[Record], Any]:
        """The rows, and the driver's statement that gave them."""
        bound = tuple([values[name] for name in self.names])
        sync: Any = connection.sync_connection
        assert sync is not None, "the connection is open"
        if not sync.in_transaction() and sync.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            # The adapter would begin one that SQLAlchemy does not know, and nobody would commit it.
            raise RuntimeError("begin a transaction first")
        if sync._has_events or sync.engine._has_events:
            for notify in sync.dispatch.before_cursor_execute:
                notify(sync, None, self.sql, bound, None, False)
        adapter: Any = sync.connection.dbapi_connection
        try:
            # What the adapter's cursor does, without the cursor and without the change of stacks.
            async with adapter._execute_mutex:
                if adapter._transaction is None and not is_last:
                    await adapter._start_transaction()
                try:
                    prepared, _ = await adapter._prepare(self.sql, sync.dialect._invalidate_schema_cache_asof)
                    return await prepared.fetch(*bound), prepared
                except Exception as error:
                    adapter._handle_exception(error)
                    raise
        except BaseException as error:
            await greenlet_spawn(_fail, sync, self.sql, bound, error)
            raise


def _fail(connection: Any, sql: str, bound: tuple[Any, ...], error: BaseException) -> None:
    """Raise what SQLAlchemy makes of an error of any statement, and have it judge the connection."""
    dialect = connection.dialect
    context = dialect.execution_ctx_cls._init_statement(dialect, connection, connection.connection, {}, sql, [bound])
    try:
        raise error  # noqa: TRY301 - it passes on what is being handled on its own stack, and this is another one
    except BaseException:  # noqa: BLE001
        connection._handle_dbapi_exception(error, sql, bound, None, context)
