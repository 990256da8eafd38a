"""What waits and what runs, measured now and then."""

import asyncio
from collections.abc import Mapping

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from generation import metrics
from generation.repository.measurements import get_measurements
from generation.runpod.client import ProviderUnavailable, RunPodClient

log = structlog.get_logger(__name__)


class Gauges:
    """Rounds of two loops: one over the database, one over the provider's own counts."""

    def __init__(self, engine: AsyncEngine, client: RunPodClient, endpoint_ids: Mapping[str, str]) -> None:
        self._engine = engine
        self._client = client
        self._endpoint_ids = endpoint_ids

    async def measure_database(self) -> None:
        """Queue depth and age by endpoint and lane, open orders by status, live attempts and pauses by endpoint."""
        async with self._engine.connect() as connection:
            measured = await get_measurements(connection)
        for gauge in (metrics.READY, metrics.OLDEST, metrics.ORDERS):
            gauge.clear()
        for queue in measured.queues:
            metrics.READY.labels(queue.endpoint, queue.lane).set(queue.orders)
            metrics.OLDEST.labels(queue.endpoint, queue.lane).set(queue.oldest_seconds)
        for status, orders in measured.open_orders.items():
            metrics.ORDERS.labels(status).set(orders)
        for endpoint in measured.endpoints:
            metrics.ACTIVE.labels(endpoint.endpoint).set(endpoint.live_attempts)
            metrics.PAUSED.labels(endpoint.endpoint).set(endpoint.paused)

    async def measure_provider(self) -> None:
        """Workers by state. RunPod scales an endpoint that is idle for 7 days to no workers: this is where it shows."""
        await asyncio.gather(*(self._count_workers(*endpoint) for endpoint in self._endpoint_ids.items()))

    async def _count_workers(self, endpoint: str, endpoint_id: str) -> None:
        try:
            health = await self._client.health(endpoint_id)
        except ProviderUnavailable as error:
            log.warning("provider_health_unavailable", endpoint=endpoint, reason=str(error))
            metrics.WORKERS.remove_by_labels({"endpoint": endpoint})
            return
        for state, number in health.workers.items():
            metrics.WORKERS.labels(endpoint, state).set(number)
