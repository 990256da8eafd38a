"""What a process does before it takes work: bring endpoints, lanes and caps in line with its settings."""

import asyncio

import structlog

from generation.repository.endpoints import EndpointLimits, configure_endpoints
from generation.settings import Settings
from messaging.database import is_unavailable
from messaging.transaction import Transactions

log = structlog.get_logger(__name__)


async def configure_when_available(transactions: Transactions, settings: Settings) -> None:
    """Write the settings to the database. Waits as long as the database is unavailable."""
    while True:
        try:
            return await _configure(transactions, settings)
        except Exception as error:
            if not is_unavailable(error):
                raise
            log.warning("database_awaited", reason=str(error))
            await asyncio.sleep(settings.poll_seconds)


async def _configure(transactions: Transactions, settings: Settings) -> None:
    limits = [
        EndpointLimits(
            endpoint=name,
            endpoint_id=endpoint.id,
            max_active=endpoint.max_active,
            rate_per_second=endpoint.rate_per_second,
            burst=endpoint.burst,
        )
        for name, endpoint in sorted(settings.endpoints.items())
    ]
    async with transactions.begin() as tx:
        await configure_endpoints(tx.connection, limits, settings.lane_weights, settings.active_caps)
