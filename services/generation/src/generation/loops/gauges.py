"""What waits and what runs, measured now and then."""

import asyncio
from collections.abc import Collection, Mapping
from itertools import product
from typing import get_args

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.values import Lane
from generation import metrics
from generation.domain.statuses import FINAL_ORDER_STATUSES, OrderStatus
from generation.repository.measurements import get_measurements
from generation.runpod.client import ProviderUnavailable, RunPodClient

log = structlog.get_logger(__name__)


class Gauges:
    """Rounds of two loops: one over the database, one over the provider's own counts."""

    def __init__(
        self, engine: AsyncEngine, client: RunPodClient, endpoint_ids: Mapping[str, str], models: Collection[str] = ()
    ) -> None:
        self._engine = engine
        self._client = client
        self._endpoint_ids = endpoint_ids
        self._models = models
        metrics.start(endpoint_ids, models)

    async def measure_database(self) -> None:
        """Queue depth and age, open orders, live attempts, paused endpoints, and the oldest due callback."""
        async with self._engine.connect() as connection:
            measured = await get_measurements(connection)
        lanes = get_args(Lane)
        # What the database has no row for is empty, and says so.
        for endpoint, lane in product(self._endpoint_ids, lanes):
            metrics.READY.labels(endpoint, lane).set(0)
            metrics.OLDEST.labels(endpoint, lane).set(0)
        for model, lane in product(self._models, lanes):
            metrics.IN_FLIGHT.labels(model, lane).set(0)
        for status in get_args(OrderStatus):
            if status not in FINAL_ORDER_STATUSES:
                metrics.ORDERS.labels(status).set(0)
        for queue in measured.queues:
            metrics.READY.labels(queue.endpoint, queue.lane).set(queue.orders)
            metrics.OLDEST.labels(queue.endpoint, queue.lane).set(queue.oldest_seconds)
        for status, orders in measured.open_orders.items():
            metrics.ORDERS.labels(status).set(orders)
        for at in measured.endpoints:
            metrics.ACTIVE.labels(at.endpoint).set(at.live_attempts)
            metrics.PAUSED.labels(at.endpoint).set(at.paused)
        for running in measured.in_flight:
            metrics.IN_FLIGHT.labels(running.model_id, running.lane).set(running.attempts)
        metrics.CALLBACKS_OLDEST.set(measured.callbacks_oldest_seconds)

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
