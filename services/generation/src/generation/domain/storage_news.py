"""What happens to an order when storage says what it found."""

from datetime import datetime

from contracts.generation import FailureCode, GenerationCompleted
from contracts.storage import AssetRejected, AssetStored, InputsRejected, InputsVerified, OutputMissing
from generation.domain.endings import abandon_live_attempts, came_to_nothing, conclude_search, fail, finish_cancel
from generation.domain.order import FINAL, Order, Policy


def asset_stored(order: Order, stored: AssetStored, now: datetime) -> None:
    """A verified object exists. It is charged unless the credits were promised back before; it is delivered anyway."""
    if order.status == "completed":
        return
    if order.status == "cancelling":
        finish_cancel(order, now)
    attempt = order.attempt(stored.attempt_id)
    if attempt is not None and attempt.status != "succeeded":
        attempt.end("succeeded", now)
    abandon_live_attempts(order, now, "another attempt produced the output", keep=attempt)
    order.late = order.status in ("failed", "cancelled")
    order.move_to("completed")
    order.asset_id = stored.asset_id
    order.finished_at = now
    seconds = None if attempt is None or attempt.execution_ms is None else attempt.execution_ms / 1000
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
            worker_seconds=seconds,
            worker_report=None if attempt is None else attempt.report,
            completed_at=now,
        )
    )


def asset_rejected(order: Order, rejected: AssetRejected, policy: Policy, now: datetime) -> None:
    """The claimed file is missing or not what was asked for: the attempt that claimed it has failed after all."""
    attempt = order.attempt(rejected.attempt_id)
    if attempt is None or order.status != "storing" or order.handed_over_number != attempt.attempt_number:
        return
    code: FailureCode = "output_missing" if rejected.code == "not_found" else "output_rejected"
    detail = f"{rejected.code}: {rejected.detail}"
    attempt.end("failed", now, code, detail)
    # Another attempt may have finished while this one's file was looked at.
    another = any(other.status == "succeeded" for other in order.attempts)
    came_to_nothing(order, attempt, policy, now, code=code, detail=detail, output="likely" if another else "none")


def output_missing(order: Order, missing: OutputMissing, policy: Policy, now: datetime) -> None:
    """Storage found nothing. An answer to a question that is no longer open changes nothing."""
    if order.sought_version == missing.sought_version:
        conclude_search(order, policy, now)


def inputs_verified(order: Order, verified: InputsVerified) -> None:
    """The user's uploads are usable: the order may be served."""
    if order.status == "queued" and not order.inputs_ready:
        order.inputs_ready = True
        order.ready = not order.seeking
        order.input_object_keys = verified.object_keys


def inputs_rejected(order: Order, rejected: InputsRejected, now: datetime) -> None:
    """The order cannot succeed as asked."""
    if order.status not in FINAL and not order.inputs_ready:
        fail(order, now, code="invalid_input", detail=f"{rejected.parameter}: {rejected.detail}")
