"""What a submission, or a report of the provider, does to an order.

A submission ends in one of four ways, which ``runpod.answers`` tells apart: ``submitted``, ``refused`` (for now: 429,
503, ...), ``rejected`` (for good) and ``unanswered``. A report is one of ``provider_reports``.
"""

from datetime import datetime, timedelta
from typing import Final

from contracts.generation import GenerationDispatched, GenerationStarted
from generation.domain.gpu_use import record_use
from generation.domain.order import Attempt, Order
from generation.domain.policy import Policy
from generation.domain.provider_reports import (
    JobFailed,
    JobLost,
    JobQueued,
    JobRunning,
    OutputReturned,
    OutputUploaded,
    Report,
)
from generation.domain.statuses import FINAL_ORDER_STATUSES
from generation.domain.transitions import (
    announce_output,
    fail,
    finish_cancel,
    handle_attempt_failure,
    requeue,
    start_verification,
)

EXECUTION_MARGIN: Final = timedelta(seconds=60)
"""How much longer than its execution limit a job without a known id may run."""

START_CHECK_MARGIN: Final = timedelta(seconds=3)
"""How long before the end of the time to start the provider is asked whether a worker has begun."""


def submitted(order: Order, attempt: Attempt, fence_token: int, job_id: str, policy: Policy, now: datetime) -> None:
    """The provider took the job. A dispatcher that lost its lease may say so too, late; it can only add the job id."""
    if attempt.awaits_answer(fence_token):
        _record_submission(order, attempt, job_id, policy, now)
    else:
        record_job_id(order, attempt, job_id, policy, now)


def record_job_id(order: Order, attempt: Attempt, job_id: str | None, policy: Policy, now: datetime) -> None:
    """The job's id became known late, or by another way than the answer to the submission."""
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
    attempt.check_at = _first_check(order, policy, now)
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


def _first_check(order: Order, policy: Policy, now: datetime) -> datetime:
    """A worker that does not report is asked about just before the order would be ended for not having begun."""
    usual = now + policy.first_check
    if order.start_deadline_at is None:
        return usual
    return min(usual, max(now, order.start_deadline_at - START_CHECK_MARGIN))


def refused(order: Order, attempt: Attempt, fence_token: int, detail: str, now: datetime) -> None:
    """The provider certainly did not take the job. The order goes back to its place in the queue."""
    if not attempt.awaits_answer(fence_token):
        return
    attempt.end("refused", now, "provider_unavailable", detail)
    if order.status == "cancelling":
        finish_cancel(order, now)
    elif order.status == "dispatching":
        requeue(order, now)


def rejected(order: Order, attempt: Attempt, fence_token: int, detail: str, policy: Policy, now: datetime) -> None:
    """The provider will never take this request: the attempt has failed."""
    if not attempt.awaits_answer(fence_token):
        return
    attempt.end("refused", now, "provider_unavailable", detail)
    if order.status == "cancelling":
        finish_cancel(order, now)
    elif order.status == "dispatching":
        handle_attempt_failure(order, attempt, policy, now, code="provider_unavailable", detail=detail, output="none")


def dispatcher_died(order: Order, attempt: Attempt, fence_token: int, policy: Policy, now: datetime) -> None:
    """The lease of a submission has ended without an answer. If nothing was sent, the order goes again at once."""
    if attempt.may_have_been_sent:
        unanswered(order, attempt, fence_token, policy, now)
    else:
        refused(order, attempt, fence_token, "the dispatcher died before it sent the job", now)


def unanswered(order: Order, attempt: Attempt, fence_token: int, policy: Policy, now: datetime) -> None:
    """The provider may or may not have the job. Wait for a sign of it, within a bound, before another attempt.

    The new fence token rejects a dispatcher that was only slow. The wait counts from the moment when it was sent.
    """
    if not attempt.awaits_answer(fence_token):
        return
    attempt.status = "unknown"
    attempt.fence_token += 1
    attempt.check_at = max(now, (attempt.sending_at or now) + policy.ambiguous_wait)
    if order.status == "cancelling":
        finish_cancel(order, now)
    elif attempt.started_at is not None:
        started(order, attempt, now)


def submission_timed_out(order: Order, attempt: Attempt, policy: Policy, now: datetime) -> None:
    """No sign of a job without an id came in time: it counts as lost."""
    if attempt.live:
        report = JobLost(job_id=None, code="provider_unavailable", detail="no sign of the job")
        _lost(order, attempt, report, policy, now)


def reported(
    order: Order, attempt: Attempt, report: Report, policy: Policy, now: datetime, received_at: datetime | None
) -> None:
    """Act on a report of the provider on one attempt, however late, repeated or out of order it comes."""
    assert not isinstance(report, OutputReturned), "a returned file is put into the bucket first: then it is uploaded"
    record_job_id(order, attempt, report.job_id, policy, now)
    record_use(order, attempt, report.use)
    if not isinstance(report, JobQueued | JobRunning):
        attempt.cancel_due_at = None
    match report:
        case JobQueued():
            pass
        case JobRunning():
            started(order, attempt, now)
        case OutputUploaded():
            _uploaded(order, attempt, report, policy, now, received_at)
        case JobFailed():
            _failed(order, attempt, report, policy, now)
        case _:
            _lost(order, attempt, report, policy, now)


def started(order: Order, attempt: Attempt, now: datetime) -> None:
    """A worker began. Before the submission is recorded this is only noted: the record comes first."""
    if attempt.live and attempt.started_at is None:
        attempt.started_at = now
    if attempt.status not in ("submitted", "unknown"):
        return
    attempt.status = "running"
    if attempt.provider_job_id is None:
        attempt.check_at = now + timedelta(seconds=order.execution_timeout_seconds) + EXECUTION_MARGIN
    if order.status == "dispatching" and order.is_latest(attempt):
        order.move_to("running")
        order.deadline_at = order.work_deadline_at
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
    order: Order, attempt: Attempt, report: OutputUploaded, policy: Policy, now: datetime, received_at: datetime | None
) -> None:
    # The same file may be reported in many ways, also after storage has rejected it.
    if attempt.status == "succeeded" or attempt.output_rejected:
        return
    attempt.end("succeeded", now)
    attempt.size_bytes = report.size_bytes
    attempt.sha256 = report.sha256
    attempt.content_type = report.content_type
    attempt.report = report.report
    if order.status == "cancelling":
        finish_cancel(order, now)
    if order.status in ("failed", "cancelled"):
        order.version += 1
        announce_output(order, attempt, received_at)
    elif order.status in ("queued", "dispatching", "running"):
        start_verification(order, attempt, policy, now, received_at)


def _failed(order: Order, attempt: Attempt, report: JobFailed, policy: Policy, now: datetime) -> None:
    if not attempt.live:
        return
    attempt.end("failed", now, report.code, report.detail)
    attempt.report = report.report
    if order.status == "cancelling":
        finish_cancel(order, now)
    elif order.status in FINAL_ORDER_STATUSES or not order.is_latest(attempt):
        return
    elif report.user_fault:
        fail(order, now, code=report.code, detail=report.detail)
    else:
        handle_attempt_failure(order, attempt, policy, now, code=report.code, detail=report.detail, output="unlikely")


def _lost(order: Order, attempt: Attempt, report: JobLost, policy: Policy, now: datetime) -> None:
    if not attempt.live:
        return
    attempt.end("lost", now, report.code, report.detail)
    if order.status == "cancelling":
        finish_cancel(order, now)
    elif order.status in ("dispatching", "running") and order.is_latest(attempt):
        handle_attempt_failure(order, attempt, policy, now, code=report.code, detail=report.detail, output="likely")
