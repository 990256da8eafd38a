"""Maintains the day partitions of outbox and inbox: creates the coming ones, drops the expired ones."""

import asyncio
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.message import Service
from messaging.database import DATABASE_ERRORS, transaction
from messaging.sql import statement

_log = structlog.get_logger("messaging.partitions")

_EVERY_SECONDS: Final = 3600.0
_AGAIN_SECONDS: Final = 30.0


class PartitionKeeper:
    """Component that calls the maintenance function of the schema at start and every hour."""

    def __init__(self, service: Service, engine: AsyncEngine) -> None:
        self.name = "partition-keeper"
        self._engine = engine
        self._maintain = statement(service, "SELECT created, dropped FROM {schema}.maintain_message_partitions()")

    async def run(self) -> None:
        """Maintain until cancelled. A busy or absent database only delays it: days are created well ahead."""
        while True:
            try:
                await self.maintain()
            except DATABASE_ERRORS as error:
                _log.warning("partitions_not_maintained", error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                await asyncio.sleep(_EVERY_SECONDS)

    async def maintain(self) -> tuple[int, int]:
        """Do it now; returns how many partitions were created and dropped."""
        async with transaction(self._engine) as connection:
            created, dropped = (await connection.execute(self._maintain)).one()
        if created or dropped:
            _log.info("partitions_maintained", created=created, dropped=dropped)
        return created, dropped
