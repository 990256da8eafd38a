"""What a call sends to the database, and how many pages each of its statements touches.

The server plans a statement once for all parameters (decision 0008), from what it knew of the tables at that time. So a
statement is prepared here as a service's connection prepares it, and executed with the call's own values later.
"""

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.message import Service
from messaging.outbox import Outbox
from messaging.transaction import Transaction

_numbers = count()
"""Names are never used again: a pooled connection keeps the plans of the harness before."""

Call = Callable[[AsyncConnection], Awaitable[Any]]


def transaction_on(connection: AsyncConnection, service: Service) -> Transaction:
    """For what is written with the outbox, on a connection whose transaction is the caller's."""
    return Transaction(connection, service, Outbox(service))


@dataclass(frozen=True, slots=True)
class Sent:
    """One statement as it went to the server, with its values."""

    sql: str
    values: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Explained:
    """One executed statement: the pages of 8 KiB that it touched, the rows that it returned, and its plan."""

    sql: str
    buffers: int
    rows: int
    plan: dict[str, Any]


class PlanHarness:
    """One connection that keeps its plans, as a pooled connection of a service does. Nothing that it does is kept."""

    def __init__(self, engine: AsyncEngine, connection: AsyncConnection) -> None:
        self._engine = engine
        self._connection = connection
        self._prepared: dict[str, str] = {}

    async def sent_by(self, call: Call) -> list[Sent]:
        """The statements of ``call``, which is rolled back."""
        sent: list[Sent] = []

        def note(_connection: Any, _cursor: Any, sql: str, values: Any, *_rest: Any) -> None:
            sent.append(Sent(sql, list(values)))

        event.listen(self._engine.sync_engine, "before_cursor_execute", note)
        try:
            async with self._engine.connect() as connection:
                await connection.begin()
                await call(connection)
                await connection.rollback()
        finally:
            event.remove(self._engine.sync_engine, "before_cursor_execute", note)
        return sent

    async def prepare(self, call: Call) -> None:
        """Have the server plan what ``call`` sends now, and keep the plans."""
        for statement in await self.sent_by(call):
            await self._connection.exec_driver_sql(f"EXPLAIN {await self._execute(statement)}")
        await self._connection.rollback()

    async def explain(self, call: Call) -> list[Explained]:
        """Execute what ``call`` sends, by the plans that are kept."""
        explained = []
        for statement in await self.sent_by(call):
            execute = await self._execute(statement)
            rows = await self._connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {execute}")
            found = rows.scalar_one()
            plan = _plan_in(found)
            buffers = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            explained.append(Explained(statement.sql, buffers, int(plan["Actual Rows"]), plan))
        await self._connection.rollback()
        return explained

    async def _execute(self, statement: Sent) -> str:
        name = self._prepared.get(statement.sql)
        if name is None:
            name = self._prepared[statement.sql] = f"plan_{next(_numbers)}"
            await self._connection.exec_driver_sql(f"PREPARE {name} AS {statement.sql}")
        values = ", ".join(_literal(value) for value in statement.values)
        return f"EXECUTE {name} ({values})" if values else f"EXECUTE {name}"


async def generic_plan(connection: AsyncConnection, sql: str) -> dict[str, Any]:
    """How the server will always execute a statement, whatever its parameters are."""
    name, numbers = f"plan_{next(_numbers)}", {int(number) for number in re.findall(r"\$(\d+)", sql)}
    nulls = f"({', '.join(['NULL'] * max(numbers))})" if numbers else ""
    await connection.exec_driver_sql("SET plan_cache_mode = force_generic_plan")
    await connection.exec_driver_sql(f"PREPARE {name} AS {sql}")
    rows = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) EXECUTE {name} {nulls}")
    return _plan_in(rows.scalar_one())


def _plan_in(explained: Any) -> dict[str, Any]:
    return dict((json.loads(explained) if isinstance(explained, str) else explained)[0]["Plan"])


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return "'" + _text(value).replace("'", "''") + "'"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "{" + ",".join("NULL" if item is None else json.dumps(_text(item)) for item in value) + "}"
    if isinstance(value, timedelta):
        return f"{value.total_seconds()} seconds"
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, str | int | float | UUID | date | datetime):
        return str(value)
    raise TypeError(f"no literal for {type(value).__name__}")
