"""The ways out of a state: verification, retry, requeue, lookup, failure and cancellation.

``completion`` holds the way to completed. Every function here expects the order under its lock and leaves the message
that announces the transition in ``order.events``.
"""

from datetime import datetime
from typing import Literal

from contracts.generation import (
    FAILURE_SENTENCES,
    AttemptFailed,
    FailureCode,
    GenerationCancelled,
    GenerationFailed,
    OutputReady,
    OutputSought,
)
from generation.domain.order import Attempt, Lookup, Order
from generation.domain.policy import Policy
from generation.domain.statuses import FINAL_ORDER_STATUSES

OutputLikelihood = Literal[
    "likely",  # the job went silent or was stopped: look its file up before anything else
    "unlikely",  # the job was reported as failed: look up before the credits go back; a retry need not wait
    "none",  # the job certainly left no good file
]


def start_verification(
    order: Order, attempt: Attempt, policy: Policy, now: datetime, received_at: datetime | None
) -> None:
    """Have storage verify the file that ``attempt`` reported. From now on a cancel comes too late."""
    abandon_live_attempts(order, now, "another attempt produced the output", keep=attempt)
    order.move_to("storing")
    order.verifying_number = attempt.attempt_number
    order.deadline_at = max(order.expires_at, now + policy.storing_timeout)
    announce_output(order, attempt, received_at)


def announce_output(order: Order, attempt: Attempt, received_at: datetime | None) -> None:
    """Announce that ``attempt`` reported a file. The order keeps its state."""
    order.events.append(
        OutputReady(
            generation_id=order.generation_id,
            user_id=order.user_id,
            version=order.version,
            kind=order.kind,
            claim=order.reported_output(attempt),
            expected_width_pixels=order.expected_width_pixels,
            expected_height_pixels=order.expected_height_pixels,
            expected_duration_ms=order.expected_duration_ms,
            expected_extension=order.output_extension,
            max_size_bytes=order.max_size_bytes,
            callback_received_at=received_at,
            late=order.status in FINAL_ORDER_STATUSES,
        )
    )


def handle_attempt_failure(
    order: Order,
    attempt: Attempt,
    policy: Policy,
    now: datetime,
    *,
    code: FailureCode,
    detail: str,
    output: OutputLikelihood,
) -> None:
    """The latest attempt failed. Retry while tries are left; fail only after storage has looked for a file."""
    order.failures += 1
    retry = order.failures < policy.max_attempts and now < order.expires_at
    others = any(other.may_have_output for other in order.attempts if other is not attempt)
    if output == "likely" or (not retry and (output == "unlikely" or others)):
        start_lookup(order, policy, now, code=code, detail=detail, retry=retry)
    elif retry:
        schedule_retry(order, attempt, policy, now, code=code, detail=detail)
    else:
        fail(order, now, code=code, detail=detail)


def start_lookup(order: Order, policy: Policy, now: datetime, *, code: FailureCode, detail: str, retry: bool) -> None:
    """Ask storage whether any attempt left a file, and remember what to do if none did."""
    outputs = tuple(order.reported_output(attempt) for attempt in reversed(order.attempts) if attempt.may_have_output)
    assert outputs, "there is nothing to look up: the order should have ended directly"
    order.version += 1
    order.ready = False
    order.lookup = Lookup(order.version, code, detail[:1000], retry)
    order.deadline_at = now + policy.lookup_timeout
    order.events.append(
        OutputSought(
            generation_id=order.generation_id,
            user_id=order.user_id,
            version=order.version,
            kind=order.kind,
            claims=outputs,
            expected_width_pixels=order.expected_width_pixels,
            expected_height_pixels=order.expected_height_pixels,
            expected_duration_ms=order.expected_duration_ms,
            expected_extension=order.output_extension,
            max_size_bytes=order.max_size_bytes,
        )
    )


def finish_lookup(order: Order, lookup: Lookup, policy: Policy, now: datetime) -> None:
    """No file exists, or storage did not answer in time: do what was planned when the lookup began."""
    if lookup.retry and now < order.expires_at:
        schedule_retry(order, order.attempts[-1], policy, now, code=lookup.code, detail=lookup.detail)
    else:
        fail(order, now, code=lookup.code, detail=lookup.detail)


def schedule_retry(
    order: Order, attempt: Attempt, policy: Policy, now: datetime, *, code: FailureCode, detail: str
) -> None:
    """Back to the queue under the same reservation. The order keeps its place; the backoff delays its next attempt."""
    order.move_to("queued")
    order.next_attempt_at = now + policy.retry_backoff.delay(order.failures, order.generation_id)
    order.deadline_at = order.work_deadline_at
    order.events.append(
        AttemptFailed(
            generation_id=order.generation_id,
            user_id=order.user_id,
            version=order.version,
            attempt_id=attempt.attempt_id,
            attempt_number=attempt.attempt_number,
            code=code,
            detail=detail[:1000],
            retry_at=order.next_attempt_at,
        )
    )


def requeue(order: Order, now: datetime) -> None:
    """Back to the queue because the provider refused the job: no try is used up, and nothing is announced."""
    order.move_to("queued")
    order.ready = True
    order.next_attempt_at = now
    order.deadline_at = order.work_deadline_at


def fail(order: Order, now: datetime, *, code: FailureCode, detail: str, told: str | None = None) -> None:
    """No file will come: the credits go back.

    ``detail`` may be a worker's or a provider's words, and stays here. The user is ``told`` words of our own, or the
    sentence of the code.
    """
    abandon_live_attempts(order, now, "the order failed")
    order.move_to("failed")
    order.finished_at = now
    order.failure_code = code
    order.failure_detail = detail[:1000]
    order.events.append(
        GenerationFailed(
            generation_id=order.generation_id,
            user_id=order.user_id,
            version=order.version,
            code=code,
            detail=FAILURE_SENTENCES[code] if told is None else told[:1000],
            failed_at=now,
        )
    )


def finish_cancel(order: Order, now: datetime) -> None:
    """The user's cancel won: the credits go back."""
    abandon_live_attempts(order, now, "the order was cancelled")
    order.move_to("cancelled")
    order.finished_at = now
    order.events.append(
        GenerationCancelled(
            generation_id=order.generation_id, user_id=order.user_id, version=order.version, cancelled_at=now
        )
    )


def abandon_live_attempts(order: Order, now: datetime, detail: str, keep: Attempt | None = None) -> None:
    """Have the provider stop every job of this order that may still run."""
    for attempt in order.attempts:
        if attempt.live and attempt is not keep:
            attempt.abandon("cancelled", now, detail)
