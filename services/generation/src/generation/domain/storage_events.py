"""What an answer of storage does to an order."""

from datetime import datetime

from contracts.generation import FailureCode
from contracts.storage import (
    REJECTION_SENTENCES,
    AssetRejected,
    AssetStored,
    InputsRejected,
    InputsVerified,
    OutputMissing,
)
from generation.domain.completion import complete
from generation.domain.order import Order
from generation.domain.policy import Policy
from generation.domain.statuses import FINAL_ORDER_STATUSES
from generation.domain.transitions import (
    OutputLikelihood,
    abandon_live_attempts,
    fail,
    finish_cancel,
    finish_lookup,
    handle_attempt_failure,
)


def asset_stored(order: Order, stored: AssetStored, now: datetime) -> None:
    """A verified file is in the library: the order is delivered, whatever state it is in."""
    if order.status == "completed":
        return
    if order.status == "cancelling":
        finish_cancel(order, now)
    attempt = order.find_attempt(stored.attempt_id)
    if attempt is not None and attempt.status != "succeeded":
        attempt.end("succeeded", now)
    abandon_live_attempts(order, now, "another attempt produced the output", keep=attempt)
    complete(order, attempt, stored, now)


def asset_rejected(order: Order, rejected: AssetRejected, policy: Policy, now: datetime) -> None:
    """The reported file is missing or is not what was asked for: its attempt has failed after all."""
    attempt = order.find_attempt(rejected.attempt_id)
    if attempt is None or order.status != "storing" or order.verifying_number != attempt.attempt_number:
        return
    code: FailureCode = "output_missing" if rejected.code == "not_found" else "output_rejected"
    detail = f"{rejected.code}: {rejected.detail}"
    attempt.end("failed", now, code, detail)
    # Another attempt may have finished while this one's file was verified.
    another = any(other.status == "succeeded" for other in order.attempts)
    output: OutputLikelihood = "likely" if another else "none"
    handle_attempt_failure(order, attempt, policy, now, code=code, detail=detail, output=output)


def output_missing(order: Order, missing: OutputMissing, policy: Policy, now: datetime) -> None:
    """Storage found nothing. An answer to a lookup that is no longer open changes nothing."""
    if order.lookup is not None and order.lookup.version == missing.sought_version:
        finish_lookup(order, order.lookup, policy, now)


def inputs_verified(order: Order, verified: InputsVerified) -> None:
    """The user's uploads are usable: the order may be served."""
    if order.status == "queued" and not order.inputs_ready:
        order.inputs_ready = True
        order.ready = order.lookup is None
        order.input_object_keys = verified.object_keys


def inputs_rejected(order: Order, rejected: InputsRejected, now: datetime) -> None:
    """The order cannot succeed as asked."""
    if order.status not in FINAL_ORDER_STATUSES and not order.inputs_ready:
        detail = f"{rejected.parameter}: {rejected.code}: {rejected.detail}"
        told = f"{rejected.parameter}: {REJECTION_SENTENCES[rejected.code]}"
        fail(order, now, code="invalid_input", detail=detail, told=told)
