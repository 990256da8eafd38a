"""What an attempt took of a worker, and what that cost: in every end, a failure and a cancel too.

    cost = (cold start + execution) x the price of a second of its GPU

What nobody said is assumed, and marked: the GPU that the catalogue plans for the order's tier, and the time between
the first sign of a worker and the end of the attempt. Waiting in the provider's queue is free.
"""

from dataclasses import dataclass, fields
from typing import Final

from catalogue.gpu_cost import cost_micro_usd, load_gpu_types
from generation.domain.order import Attempt, Order


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """One job on a worker, as the provider and the worker say. None where neither says it.

    ``queue_ms`` is the wait at the provider, a cold start included; ``cold_start_ms`` is 0 on a warm worker.
    """

    worker_id: str | None = None
    gpu_type: str | None = None
    queue_ms: int | None = None
    cold_start_ms: int | None = None
    execution_ms: int | None = None


NOTHING_TOLD: Final = GpuUse()


def record_use(order: Order, attempt: Attempt, use: GpuUse) -> None:
    """Take over what is said, however late: a later word replaces an assumption, and silence replaces nothing."""
    for field in fields(use):
        value = getattr(use, field.name)
        if value is not None and field.name != "gpu_type":
            setattr(attempt, field.name, value)
    if use.gpu_type in load_gpu_types():
        attempt.gpu_type, attempt.gpu_assumed = use.gpu_type, False
    if use.execution_ms is not None:
        attempt.execution_assumed = False
        _price(order, attempt)


def assume_use(order: Order, attempt: Attempt) -> None:
    """The attempt has ended. If nobody said how long it ran, the clock of the first and last sign says it."""
    if attempt.execution_ms is None:
        if attempt.started_at is None or attempt.ended_at is None:
            return  # no worker is known to have begun
        seconds = min((attempt.ended_at - attempt.started_at).total_seconds(), order.execution_timeout_seconds)
        attempt.execution_ms, attempt.execution_assumed = round(1000 * max(0.0, seconds)), True
    _price(order, attempt)


def _price(order: Order, attempt: Attempt) -> None:
    if attempt.gpu_type is None or attempt.gpu_assumed:
        attempt.gpu_type, attempt.gpu_assumed = order.planned_gpu, None if order.planned_gpu is None else True
    if attempt.gpu_type is not None and attempt.gpu_type in load_gpu_types() and attempt.execution_ms is not None:
        milliseconds = attempt.execution_ms + (attempt.cold_start_ms or 0)
        attempt.cost_micro_usd = cost_micro_usd(attempt.gpu_type, milliseconds)
