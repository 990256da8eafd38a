"""What waits and what runs, measured now and then."""

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import get_args

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.values import Lane
from generation import metrics
from generation.domain.statuses import FINAL_ORDER_STATUSES, OrderStatus
from generation.repository.measurements import get_measurements
from messaging.database import single_statements


class Gauges:
    """``measure_database`` is the round of a loop. ``tiers`` are those of each model."""

    def __init__(self, engine: AsyncEngine, endpoints: Collection[str], tiers: Mapping[str, Sequence[str]]) -> None:
        self._engine = engine
        self._endpoints = endpoints
        self._models = tuple(tiers)
        metrics.start(endpoints, tiers)

    async def measure_database(self) -> None:
        """Queue depth and age, open orders, live attempts, paused endpoints, and the oldest due callback."""
        async with single_statements(self._engine) as connection:
            measured = await get_measurements(connection)
        lanes = get_args(Lane)
        # What the database has no row for is empty, and says so.
        for endpoint, lane in product(self._endpoints, lanes):
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
