"""Reading the schemas of all services: one query over every one of them, and one moment of them all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.message import SERVICES


def for_each_schema(query: str, order: str = "") -> str:
    """The rows of ``query`` in every service's schema, which it calls ``{schema}``; ``order`` is of them all."""
    return " UNION ALL ".join(query.replace("{schema}", service) for service in SERVICES) + order


@asynccontextmanager
async def snapshot(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """One moment of the database, read only, whatever is written meanwhile."""
    async with engine.connect() as connection:
        reading = await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        async with reading.begin():
            yield reading
