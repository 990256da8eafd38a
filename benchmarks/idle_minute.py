"""What services ask of the database when nobody orders: recorded on a small platform, sent again to a long history.

The auditor is left out: its round is measured by itself, and reads in a snapshot that its sessions share.
So is what asks for the postings after a seal: where it was recorded, that was the last seal.
"""

import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import groupby
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.order_cost import Statement
from contracts.message import SERVICES, Service

IDLE_SERVICES: Final = tuple(service for service in SERVICES if service != "auditor")
_AFTER_A_SEAL: Final = "billing.balance_ledger.posting_id >"
_PARAMETER: Final = re.compile(r"\$\d+ = (NULL|'(?:[^']|'')*')")


async def send_again(statements: Collection[Statement], engine_of: Callable[[Service], AsyncEngine]) -> int:
    """Send each statement as its service, in its transaction, one transaction after the other. Returns how many.

    Each transaction is rolled back. What it wrote may be there already: then its unique key ends it.
    Raises asyncpg.PostgresError where a statement fails otherwise: none did when they were recorded.
    """
    sent = 0
    for service in IDLE_SERVICES:
        mine = [one for one in statements if one.service == service and _AFTER_A_SEAL not in one.sql]
        mine.sort(key=lambda one: one.transaction)
        engine = engine_of(service)
        try:
            async with engine.connect() as connection:
                driver = (await connection.get_raw_connection()).driver_connection
                assert isinstance(driver, asyncpg.Connection)
                await _send_all(driver, mine)
        finally:
            await engine.dispose()
        sent += len([one for one in mine if not one.is_control])
    return sent


async def _send_all(connection: asyncpg.Connection, statements: Sequence[Statement]) -> None:
    names: dict[str, str] = {}
    for one in statements:
        if one.parameters and one.sql not in names:
            names[one.sql] = f"idle_{len(names)}"
            await connection.execute(f"PREPARE {names[one.sql]} AS {one.sql}")
    for _, transaction in groupby(statements, key=lambda one: one.transaction):
        async with _rolled_back(connection):
            for one in transaction:
                if not one.is_control:
                    await connection.execute(_as_text(one, names))


@asynccontextmanager
async def _rolled_back(connection: asyncpg.Connection) -> AsyncIterator[None]:
    transaction = connection.transaction()
    await transaction.start()
    try:
        with suppress(asyncpg.UniqueViolationError):
            yield
    finally:
        await transaction.rollback()


def _as_text(statement: Statement, names: Mapping[str, str]) -> str:
    if not statement.parameters:
        return statement.sql
    return f"EXECUTE {names[statement.sql]}({', '.join(_PARAMETER.findall(statement.parameters))})"
