"""Save what the domain decided: rows, messages and metrics in one transaction, and wake-ups after it."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from generation.domain.gpu_use import assume_use
from generation.domain.order import Order
from generation.domain.statuses import FINAL_ORDER_STATUSES
from generation.metrics import (
    ATTEMPTS_ENDED,
    DELIVERED_CREDITS,
    ORDER_SECONDS,
    count_order,
    count_revenue,
    count_spent,
    count_thrown_away,
)
from generation.repository.callbacks import ProcessedBody
from generation.repository.orders import LockedOrders, save_orders
from generation.wake_ups import WakeUps
from messaging.received import Received
from messaging.transaction import Transaction


async def save_changes(
    tx: Transaction,
    locked: LockedOrders,
    wake_ups: WakeUps,
    causes: Mapping[UUID, Received[Any]] | None = None,
    processed: Sequence[ProcessedBody] = (),
) -> None:
    """Write ``locked`` and publish what happened to it; ``causes`` maps an order to the message that it answers.

    ``processed`` are stored with it. Raises BodyNotAdded.
    """
    ended_attempts = tuple(locked.ended_attempts())
    for order, attempt in ended_attempts:
        assume_use(order, attempt)
    spent = tuple(locked.spent())
    ended = [order for order in locked.orders.values() if order.status in FINAL_ORDER_STATUSES and order.events]
    for order in locked.orders.values():
        _publish(tx, order, (causes or {}).get(order.generation_id))
    written = await save_orders(tx, locked, processed)

    def committed() -> None:
        if written.claimable:
            wake_ups.dispatch_at(written.claimable)
        if any(attempt.cancel_due_at is not None for attempt in written.attempts):
            wake_ups.cancels.set()
        for order in ended:
            count_order(order.status, late=order.late, code=order.failure_code)
            if order.status == "completed" and not order.late:
                DELIVERED_CREDITS.labels(order.model_id).inc(order.price_credits)
                count_revenue(order.model_id, order.tier, order.price_credits)
                ORDER_SECONDS.labels(order.model_id).observe((locked.now - order.requested_at).total_seconds())
        for order, attempt in ended_attempts:
            ATTEMPTS_ENDED.labels(order.endpoint, attempt.status).inc()
        for one in spent:
            count_spent(one.order.model_id, one.order.tier, one.attempt.status, one.milliseconds, one.micro_usd)
            if one.thrown_away:
                count_thrown_away(one.order.model_id, one.order.tier, one.milliseconds)

    tx.after_commit(committed)


def _publish(tx: Transaction, order: Order, cause: Received[Any] | None) -> None:
    """A message continues the trace of what caused it, or else the trace in which the order came."""
    for event in order.events:
        tx.publish(event, correlation_id=order.generation_id, cause=cause, traceparent=order.traceparent)
    order.events.clear()
