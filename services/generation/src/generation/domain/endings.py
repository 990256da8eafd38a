"""How an order leaves a state: handed over, tried again, sought after, failed, cancelled or completed."""

from datetime import datetime
from typing import Literal

from contracts.generation import (
    AttemptFailed,
    FailureCode,
    GenerationCancelled,
    GenerationFailed,
    OutputReady,
    OutputSought,
)
from generation.domain.order import FINAL, Attempt, Order, Policy

OutputDoubt = Literal[
    "likely",  # it fell silent or was cut off: look for its file before anything else
    "unlikely",  # it was reported as failed: look before the credits go back, but a retry need not wait
    "none",  # it certainly left no good file
]


def hand_over(order: Order, attempt: Attempt, policy: Policy, now: datetime, received_at: datetime | None) -> None:
    """Give the claimed file of ``attempt`` to storage. From here on a cancel comes too late."""
    abandon_live_attempts(order, now, "another attempt produced the output", keep=attempt)
    order.move_to("storing")
    order.handed_over_number = attempt.attempt_number
    order.deadline_at = max(order.expires_at, now + policy.storing_timeout)
    announce_output(order, attempt, received_at)


def announce_output(order: Order, attempt: Attempt, received_at: datetime | None) -> None:
    """Say that ``attempt`` claims a file. The order's own state is the caller's affair."""
    order.events.append(
        OutputReady(
            generation_id=order.generation_id,
            user_id=order.user_id,
            version=order.version,
            kind=order.kind,
            claim=order.claim(attempt),
            expected_width_pixels=order.expected_width_pixels,
            expected_height_pixels=order.expected_height_pixels,
            expected_duration_ms=order.expected_duration_ms,
            max_size_bytes=order.max_size_bytes,
            callback_received_at=received_at,
            late=order.status in FINAL,
        )
    )


def came_to_nothing(
    order: Order,
    attempt: Attempt,
    policy: Policy,
    now: datetime,
    *,
    code: FailureCode,
    detail: str,
    output: OutputDoubt,
) -> None:
    """The latest attempt failed. Try again while tries are left; give up only after storage has looked for a file."""
    order.failures += 1
    retry = order.failures < policy.max_attempts and now < order.expires_at
    others = any(other.may_have_output for other in order.attempts if other is not attempt)
    if output == "likely" or (not retry and (output == "unlikely" or others)):
        seek(order, policy, now, code=code, detail=detail, retry=retry)
    elif retry:
        try_again(order, attempt, policy, now, code=code, detail=detail)
    else:
        fail(order, now, code=code, detail=detail)


def seek(order: Order, policy: Policy, now: datetime, *, code: FailureCode, detail: str, retry: bool) -> None:
    """Ask storage whether any attempt left a file, and remember what to do if none did."""
    claims = tuple(order.claim(attempt) for attempt in reversed(order.attempts) if attempt.may_have_output)
    assert claims, "there is nothing to look for: the order should have ended directly"
    order.version += 1
    order.ready = False
    order.sought_version = order.version
    order.sought_code = code
    order.sought_detail = detail[:1000]
    order.sought_retry = retry
    order.deadline_at = now + policy.seek_timeout
    order.events.append(
        OutputSought(
            generation_id=order.generation_id,
            user_id=order.user_id,
            version=order.version,
            kind=order.kind,
            claims=claims,
            expected_width_pixels=order.expected_width_pixels,
            expected_height_pixels=order.expected_height_pixels,
            expected_duration_ms=order.expected_duration_ms,
            max_size_bytes=order.max_size_bytes,
        )
    )


def conclude_search(order: Order, policy: Policy, now: datetime) -> None:
    """No file exists, or storage did not say so in time: do what was planned when the search began."""
    code, detail, retry = order.sought_code, order.sought_detail or "", order.sought_retry
    assert code is not None, "an order that is being sought always knows why"
    latest = order.attempts[-1]
    if retry and now < order.expires_at:
        try_again(order, latest, policy, now, code=code, detail=detail)
    else:
        fail(order, now, code=code, detail=detail)


def try_again(order: Order, attempt: Attempt, policy: Policy, now: datetime, *, code: FailureCode, detail: str) -> None:
    """Back to the queue under the same reservation; it keeps its place, and may be served after the backoff."""
    order.move_to("queued")
    order.next_attempt_at = now + policy.backoff(order.failures)
    order.deadline_at = order.expires_at
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


def put_back(order: Order, now: datetime) -> None:
    """Back to the queue because the provider took nothing: no try is used up, and nobody outside saw it leave."""
    order.move_to("queued")
    order.ready = True
    order.next_attempt_at = now
    order.deadline_at = order.expires_at


def fail(order: Order, now: datetime, *, code: FailureCode, detail: str) -> None:
    """No file will come: the credits go back."""
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
            detail=detail[:1000],
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
    """Have the provider stop whatever is still under way for this order."""
    for attempt in order.attempts:
        if attempt.live and attempt is not keep:
            attempt.abandon("cancelled", now, detail)
