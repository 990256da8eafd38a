"""How an order completes, and what it costs: in full, or nothing if the result is late.

This is the one place that decides that **a late result is free**. A result is late if the order had already failed or
been cancelled when its file was verified: its credits were promised back, so they are not taken again.
``docs/decisions/0022`` gives the reasons.
"""

from datetime import datetime

from contracts.generation import GenerationCompleted
from contracts.storage import AssetStored
from generation.domain.order import Attempt, Order


def complete(order: Order, attempt: Attempt | None, stored: AssetStored, now: datetime) -> None:
    """The verified file of ``attempt`` is in the library: the order is delivered, late or not, and ends."""
    order.late = order.status in ("failed", "cancelled")
    order.move_to("completed")
    order.asset_id = stored.asset_id
    order.finished_at = now
    order.events.append(
        GenerationCompleted(
            generation_id=order.generation_id,
            user_id=order.user_id,
            version=order.version,
            attempt_number=stored.attempt_number,
            asset_id=stored.asset_id,
            capture_credits=0 if order.late else order.price_credits,
            late=order.late,
            media=stored.media,
            worker_seconds=None if attempt is None else attempt.worker_seconds,
            worker_report=None if attempt is None else attempt.report,
            completed_at=now,
        )
    )
