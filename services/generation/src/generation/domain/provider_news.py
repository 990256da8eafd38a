"""What happens to an order when its attempt is sent to the provider, and when the provider says something of it."""

from datetime import datetime, timedelta

from contracts.generation import GenerationDispatched, GenerationStarted
from generation.domain.endings import announce_output, came_to_nothing, fail, finish_cancel, hand_over, put_back
from generation.domain.order import FINAL, Attempt, Order, Policy
from generation.domain.provider_reports import Failed, Rendering, Report, Returned, Uploaded, Vanished, Waiting

EXECUTION_MARGIN = timedelta(seconds=60)
"""How much longer than its execution limit a job without a known id is waited for."""


def submitted(order: Order, attempt: Attempt, fence_token: int, job_id: str, policy: Policy, now: datetime) -> None:
    """The provider took the job. A dispatcher that lost its lease may say so too, late; it can only add the job id."""
    if attempt.status == "prepared" and attempt.fence_token == fence_token:
        _record_submission(order, attempt, job_id, policy, now)
    else:
        learn_job_id(order, attempt, job_id, policy, now)


def learn_job_id(order: Order, attempt: Attempt, job_id: str | None, policy: Policy, now: datetime) -> None:
    """Evidence of the job's id came by another way than the answer to the submission."""
    if job_id is None or attempt.provider_job_id is not None:
        return
    if attempt.status in ("prepared", "unknown"):
        _record_submission(order, attempt, job_id, policy, now)
        return
    attempt.provider_job_id = job_id
    if attempt.status in ("failed", "lost", "cancelled"):
        attempt.cancel_due_at = now


def _record_submission(order: Order, attempt: Attempt, job_id: str, policy: Policy, now: datetime) -> None:
    attempt.status = "submitted"
    attempt.provider_job_id = job_id
    attempt.submitted_at = now
    attempt.check_at = now + policy.first_check
    if order.status == "cancelling":
        attempt.cancel_due_at = now
    elif order.status == "dispatching" and order.is_latest(attempt):
        order.version += 1
        order.events.append(
            GenerationDispatched(
                generation_id=order.generation_id,
                user_id=order.user_id,
                version=order.version,
                attempt_id=attempt.attempt_id,
                attempt_number=attempt.attempt_number,
                endpoint_id=attempt.endpoint_id,
                provider_job_id=job_id,
                submitted_at=now,
            )
        )
    if attempt.started_at is not None:
        started(order, attempt, now)


def refused(order: Order, attempt: Attempt, fence_token: int, detail: str, now: datetime) -> None:
    """The provider certainly did not take the job. The order goes back to its place in the queue."""
    if attempt.status != "prepared" or attempt.fence_token != fence_token:
        return
    attempt.end("refused", now, "provider_unavailable", detail)
    if order.status == "cancelling":
        finish_cancel(order, now)
    elif order.status == "dispatching":
        put_back(order, now)


def rejected(order: Order, attempt: Attempt, fence_token: int, detail: str, policy: Policy, now: datetime) -> None:
    """The provider will not have this very request: asking again at once would change nothing."""
    if attempt.status != "prepared" or attempt.fence_token != fence_token:
        return
    attempt.end("refused", now, "provider_unavailable", detail)
    if order.status == "cancelling":
        finish_cancel(order, now)
    elif order.status == "dispatching":
        came_to_nothing(order, attempt, policy, now, code="provider_unavailable", detail=detail, output="none")


def unanswered(order: Order, attempt: Attempt, fence_token: int, policy: Policy, now: datetime) -> None:
    """Nobody knows whether the provider has the job. Wait for word of it, within a bound, before another attempt.

    Taking a new fence token shuts out a dispatcher that was only slow.
    """
    if attempt.status != "prepared" or attempt.fence_token != fence_token:
        return
    attempt.status = "unknown"
    attempt.fence_token += 1
    attempt.check_at = now + policy.ambiguous_wait
    if order.status == "cancelling":
        finish_cancel(order, now)
    elif attempt.started_at is not None:
        started(order, attempt, now)


def gave_no_sign(order: Order, attempt: Attempt, policy: Policy, now: datetime) -> None:
    """The wait for a job without an id is over."""
    if attempt.live:
        silence = Vanished(job_id=None, code="provider_unavailable", detail="no sign of the job")
        _lose(order, attempt, policy, now, silence)


def reported(
    order: Order, attempt: Attempt, report: Report, policy: Policy, now: datetime, received_at: datetime | None
) -> None:
    """Act on what the provider says of one attempt, however late, repeated or out of order it comes."""
    learn_job_id(order, attempt, report.job_id, policy, now)
    if not isinstance(report, Waiting | Rendering):
        attempt.cancel_due_at = None
    match report:
        case Waiting():
            pass
        case Rendering():
            started(order, attempt, now)
        case Uploaded():
            _uploaded(order, attempt, report, policy, now, received_at)
        case Failed():
            _failed(order, attempt, report, policy, now)
        case Vanished():
            _lose(order, attempt, policy, now, report)
        case Returned():
            raise AssertionError("a returned file is put into the bucket first, and reported as uploaded")


def started(order: Order, attempt: Attempt, now: datetime) -> None:
    """A worker began. While the submission is still being recorded this is only noted: the record comes first."""
    if attempt.live and attempt.started_at is None:
        attempt.started_at = now
    if attempt.status not in ("submitted", "unknown"):
        return
    attempt.status = "running"
    if attempt.provider_job_id is None:
        attempt.check_at = now + timedelta(seconds=order.execution_timeout_seconds) + EXECUTION_MARGIN
    if order.status == "dispatching" and order.is_latest(attempt):
        order.move_to("running")
        order.events.append(
            GenerationStarted(
                generation_id=order.generation_id,
                user_id=order.user_id,
                version=order.version,
                attempt_id=attempt.attempt_id,
                attempt_number=attempt.attempt_number,
                started_at=attempt.started_at or now,
            )
        )


def _uploaded(
    order: Order, attempt: Attempt, report: Uploaded, policy: Policy, now: datetime, received_at: datetime | None
) -> None:
    # The same news may come in many shapes, also after storage has refused the file that it is about.
    if attempt.status == "succeeded" or attempt.file_refused:
        return
    attempt.end("succeeded", now)
    attempt.size_bytes = report.size_bytes
    attempt.sha256 = report.sha256
    attempt.content_type = report.content_type
    attempt.execution_ms = report.execution_ms
    attempt.report = report.report
    if order.status == "cancelling":
        finish_cancel(order, now)
    if order.status in ("failed", "cancelled"):
        order.version += 1
        announce_output(order, attempt, received_at)
    elif order.status in ("queued", "dispatching", "running"):
        hand_over(order, attempt, policy, now, received_at)


def _failed(order: Order, attempt: Attempt, report: Failed, policy: Policy, now: datetime) -> None:
    if not attempt.live:
        return
    attempt.end("failed", now, report.code, report.detail)
    if order.status == "cancelling":
        finish_cancel(order, now)
    elif order.status in FINAL or not order.is_latest(attempt):
        return
    elif report.user_fault:
        fail(order, now, code=report.code, detail=report.detail)
    else:
        came_to_nothing(order, attempt, policy, now, code=report.code, detail=report.detail, output="unlikely")


def _lose(order: Order, attempt: Attempt, policy: Policy, now: datetime, report: Vanished) -> None:
    if not attempt.live:
        return
    attempt.end("lost", now, report.code, report.detail)
    if order.status == "cancelling":
        finish_cancel(order, now)
    elif order.status in ("dispatching", "running") and order.is_latest(attempt):
        came_to_nothing(order, attempt, policy, now, code=report.code, detail=report.detail, output="likely")
