"""Saving what the domain decided: rows, messages and metrics in one transaction, and whom to wake after it."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from generation.domain.order import FINAL, Order
from generation.metrics import ATTEMPTS_ENDED, ORDERS_ENDED
from generation.repository.orders import LockedOrders, save_orders
from messaging.received import Received
from messaging.transaction import Transaction
from service_runtime.tracing import span


class Wakes:
    """The loops of this process that need not wait for their next look."""

    def __init__(self) -> None:
        self.dispatch = asyncio.Event()
        self._endpoints: set[str] = set()
        self.cancels = asyncio.Event()
        self.callbacks = asyncio.Event()

    def look_at(self, endpoints: Iterable[str]) -> None:
        """Something may be claimable at these endpoints now."""
        self._endpoints.update(endpoints)
        self.dispatch.set()

    def endpoints_to_look_at(self) -> set[str]:
        """The endpoints named since the last call; none if it was only time that passed."""
        endpoints, self._endpoints = self._endpoints, set()
        return endpoints


async def save_changes(
    tx: Transaction, locked: LockedOrders, wakes: Wakes, causes: Mapping[UUID, Received[Any]] | None = None
) -> None:
    """Write ``locked`` and publish what happened to it; ``causes`` maps an order to the message that it answers."""
    written = await save_orders(tx.connection, locked)
    claimable = {row["endpoint"] for row in written.counters if row["ready"] > 0 or row["active"] < 0}
    changed_attempts = {row["key"] for row in written.attempts}
    ended = [order for order in locked.orders.values() if order.status in FINAL and order.events]
    for order in locked.orders.values():
        _publish(tx, order, (causes or {}).get(order.generation_id))

    def committed() -> None:
        if claimable:
            wakes.look_at(claimable)
        if any(row["cancel_due_at"] is not None for row in written.attempts):
            wakes.cancels.set()
        for order in ended:
            ORDERS_ENDED.labels(order.status, str(order.late).lower()).inc()
        for order in locked.orders.values():
            for attempt in order.attempts:
                if attempt.attempt_id in changed_attempts and not attempt.live:
                    ATTEMPTS_ENDED.labels(order.endpoint, attempt.status).inc()

    tx.after_commit(committed)


def _publish(tx: Transaction, order: Order, cause: Received[Any] | None) -> None:
    """A message continues the trace of what caused it, or else the trace in which the order came."""
    for event in order.events:
        if cause is not None:
            tx.publish(event, correlation_id=order.generation_id, cause=cause)
        else:
            with span(type(event).__name__, order.traceparent):
                tx.publish(event, correlation_id=order.generation_id)
    order.events.clear()
