"""What is waiting and what is running, measured now and then."""

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from generation import metrics
from generation.runpod_client import ProviderUnavailable, RunPodClient

_QUEUE: Final = text("""
    SELECT endpoint, lane, count(*) AS orders, extract(epoch FROM clock_timestamp() - min(enqueued_at)) AS oldest
    FROM generation.video_generations WHERE ready GROUP BY endpoint, lane
""")
_STATUSES: Final = text("""
    SELECT status, count(*) AS orders FROM generation.video_generations
    WHERE status NOT IN ('completed', 'failed', 'cancelled') GROUP BY status
""")
_ENDPOINTS: Final = text("""
    SELECT endpoint, coalesce(held_until > clock_timestamp(), false) AS held, (
        SELECT count(*) FROM generation.attempts AS a
        WHERE a.endpoint = e.endpoint AND a.status IN ('prepared', 'unknown', 'submitted', 'running')) AS active
    FROM generation.endpoints AS e
""")

log = structlog.get_logger(__name__)


class Gauges:
    """Rounds of two loops: one over the database, one over the provider's own counts."""

    def __init__(self, engine: AsyncEngine, client: RunPodClient, endpoint_ids: Mapping[str, str]) -> None:
        self._engine = engine
        self._client = client
        self._endpoint_ids = endpoint_ids

    async def measure(self) -> None:
        """Queue depth and age by endpoint and lane, open orders by status, live attempts and holds by endpoint."""
        async with self._engine.connect() as connection:
            queue = (await connection.execute(_QUEUE)).all()
            statuses = (await connection.execute(_STATUSES)).all()
            endpoints = (await connection.execute(_ENDPOINTS)).all()
        for gauge in (metrics.READY, metrics.OLDEST, metrics.ORDERS):
            gauge.clear()
        for row in queue:
            metrics.READY.labels(row.endpoint, row.lane).set(row.orders)
            metrics.OLDEST.labels(row.endpoint, row.lane).set(float(row.oldest))
        for row in statuses:
            metrics.ORDERS.labels(row.status).set(row.orders)
        for row in endpoints:
            metrics.ACTIVE.labels(row.endpoint).set(row.active)
            metrics.HELD.labels(row.endpoint).set(row.held)

    async def ask_provider(self) -> None:
        """Workers by state. RunPod drops an idle endpoint to no workers at all after 7 days: this is where it shows."""
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
