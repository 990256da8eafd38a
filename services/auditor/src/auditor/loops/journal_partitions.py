"""Keeps the journal's partitions: makes those of the coming days and drops the expired ones."""

from sqlalchemy.ext.asyncio import AsyncEngine

from auditor.repository import journal


async def maintain_partitions(engine: AsyncEngine, retention_days: int) -> None:
    """One round, in a transaction of its own."""
    async with engine.begin() as connection:
        await journal.maintain_partitions(connection, retention_days)
