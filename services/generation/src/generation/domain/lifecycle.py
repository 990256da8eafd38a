"""What happens to an order because of its user or because of time."""

from datetime import datetime

from contracts.generation import FailureCode, GenerationCancelling
from generation.domain.order import Attempt, Order
from generation.domain.policy import Policy
from generation.domain.transitions import fail, finish_cancel, finish_lookup, start_lookup


def cancel(order: Order, policy: Policy, now: datetime, *, stop_running: bool = True) -> None:
    """The user wants it stopped. That wins until storage verifies a file, and loses after.

    Without ``stop_running`` it also loses once a worker may have the work.
    """
    if order.status not in ("queued", "dispatching", "running"):
        return
    if not stop_running and any(attempt.live for attempt in order.attempts):
        return
    if not any(attempt.stoppable for attempt in order.attempts):
        finish_cancel(order, now)
        return
    order.move_to("cancelling")
    order.deadline_at = now + policy.cancel_timeout
    for attempt in order.attempts:
        if attempt.live and attempt.provider_job_id is not None:
            attempt.cancel_due_at = now
    order.events.append(
        GenerationCancelling(generation_id=order.generation_id, user_id=order.user_id, version=order.version)
    )


def provider_cancelled(order: Order, attempt: Attempt, now: datetime) -> None:
    """The provider has stopped the job, or has none to stop."""
    attempt.cancel_due_at = None
    if attempt.live:
        attempt.end("cancelled", now)
    if order.status == "cancelling" and not any(other.live for other in order.attempts):
        finish_cancel(order, now)


def backoff_over(order: Order) -> None:
    """A retry may be served again."""
    if order.status == "queued" and order.inputs_ready and order.lookup is None:
        order.ready = True


def deadline_passed(order: Order, policy: Policy, now: datetime) -> None:
    """The state has lasted as long as it may. The caller compared ``deadline_at`` with the database's clock."""
    if order.status == "cancelling":
        finish_cancel(order, now)
    elif order.lookup is not None:
        finish_lookup(order, order.lookup, policy, now)
    elif order.status == "storing":
        start_lookup(order, policy, now, code="output_missing", detail="storage gave no answer in time", retry=False)
    elif order.status in ("queued", "dispatching", "running"):
        _end_work(order, policy, now)


def _end_work(order: Order, policy: Policy, now: datetime) -> None:
    if order.start_before_at is None or now >= order.expires_at:
        _expire(order, policy, now, "deadline_exceeded", "the order was not delivered by its deadline")
    elif order.start_deadline_at is not None:
        _expire(order, policy, now, "not_started_in_time", "no worker had begun by the time that the order allows")
    else:
        # A replica that does not know of the time to start let the order begin, and did not move its deadline.
        order.deadline_at = order.expires_at


def _expire(order: Order, policy: Policy, now: datetime, code: FailureCode, detail: str) -> None:
    for attempt in order.attempts:
        if attempt.live:
            attempt.abandon("lost", now, detail)
    if any(attempt.may_have_output for attempt in order.attempts):
        start_lookup(order, policy, now, code=code, detail=detail, retry=False)
    else:
        fail(order, now, code=code, detail=detail)
