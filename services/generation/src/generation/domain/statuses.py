"""Every state of an order and of an attempt: which are live, which are final, and what each means.

Everything that compares states derives from here, SQL included (``generation.tables``). Two things keep their own text
and are held equal by a test: the migrations, and the auditor, whose proof is independent.
"""

from collections.abc import Mapping
from typing import Final, Literal

from contracts.statuses import StatusMeaning

OrderStatus = Literal["queued", "dispatching", "running", "storing", "completed", "failed", "cancelling", "cancelled"]

AttemptStatus = Literal[
    "prepared", "unknown", "submitted", "running", "succeeded", "failed", "lost", "refused", "cancelled"
]

FINAL_ORDER_STATUSES: Final[tuple[OrderStatus, ...]] = ("completed", "failed", "cancelled")
"""The order has ended. A file that turns up later can still turn failed and cancelled into completed."""

LIVE_ATTEMPT_STATUSES: Final[tuple[AttemptStatus, ...]] = ("prepared", "unknown", "submitted", "running")
"""The attempt may be using a worker, as far as anyone knows: it counts against every cap."""

UNSTARTED_ATTEMPT_STATUSES: Final[tuple[AttemptStatus, ...]] = ("prepared", "unknown", "submitted")
"""Live, and no worker is known to have begun."""

_ORDERS_DEADLINE: Final = "the order's own; then its attempts are abandoned, looked up, and it fails"
_CREDITS_BACK: Final = "the credits go back; a file that turns up later is delivered free"

ORDER_STATUS_MEANING: Final[Mapping[OrderStatus, StatusMeaning]] = {
    "queued": StatusMeaning(
        set_by="the handler of credits-reserved; a retry or a refused submission puts the order back in its place",
        ended_by="the claim of the dispatcher, a cancel, or rejected uploads",
        deadline="the order's own, or its time to start; then it fails, after a lookup if anything was ever submitted",
        user_sees="waiting for its turn",
    ),
    "dispatching": StatusMeaning(
        set_by="the claim, together with a new attempt",
        ended_by="the first sign of a worker, a refusal (queued), a failed attempt, or a cancel",
        deadline="the order's own, or its time to start; then its attempts are abandoned, looked up, and it fails",
        user_sees="being sent to a worker",
    ),
    "running": StatusMeaning(
        set_by="the first progress report, or a poll that finds the job on a worker",
        ended_by="a report of the provider: a file (storing) or a failure (queued or failed), or a cancel",
        deadline=_ORDERS_DEADLINE,
        user_sees="rendering, with its progress",
    ),
    "storing": StatusMeaning(
        set_by="a report that names a file: storage verifies it",
        ended_by="storage: asset-stored (completed) or asset-rejected (queued or failed); no cancel",
        deadline="10 minutes, at least the order's own; then storage looks all its attempts up",
        user_sees="being stored; too late to cancel",
    ),
    "completed": StatusMeaning(
        set_by="asset-stored, in any other state",
        ended_by="final",
        deadline="none",
        user_sees="the file; charged in full, or free if it is late",
    ),
    "failed": StatusMeaning(
        set_by="the last attempt's failure, a user's error, or the deadline",
        ended_by="final, unless a file turns up later (completed)",
        deadline="none",
        user_sees=_CREDITS_BACK,
    ),
    "cancelling": StatusMeaning(
        set_by="a cancel while a job may run",
        ended_by="the provider, which confirms that the job has stopped or is over",
        deadline="45 s; then cancelled, and the stop request is repeated",
        user_sees="being cancelled",
    ),
    "cancelled": StatusMeaning(
        set_by="a cancel without a job, or the end of cancelling",
        ended_by="final, unless a file turns up later (completed)",
        deadline="none",
        user_sees=_CREDITS_BACK,
    ),
}
"""An order with an open lookup keeps its state until storage answers, for 5 minutes at most."""

ATTEMPT_STATUS_MEANING: Final[Mapping[AttemptStatus, StatusMeaning]] = {
    "prepared": StatusMeaning(
        set_by="the claim, before the provider is called; with a lease and a fence token",
        ended_by="the recorded answer to the submission",
        deadline="5 s until it is marked as being sent, then refused; then its lease, 20 s; then unknown, with a new "
        "fence token",
        user_sees="the order is dispatching",
    ),
    "unknown": StatusMeaning(
        set_by="a submission without an answer, or the end of the lease: the provider may have the job",
        ended_by="a sign of the job: its webhook (any report) or its progress (running), or a late answer (submitted)",
        deadline="45 s without a sign, from the submission on; then lost",
        user_sees="the order is dispatching",
    ),
    "submitted": StatusMeaning(
        set_by="the provider's answer, or the first report that names the job's id",
        ended_by="the first sign of a worker, or any report on the job",
        deadline="none of its own: polled every 20 s; an unknown job is lost",
        user_sees="the order is dispatching",
    ),
    "running": StatusMeaning(
        set_by="the first progress report, or a poll that finds the job on a worker",
        ended_by="a report on the job",
        deadline="as submitted; without a job id, the model's execution limit and 60 s",
        user_sees="the order is running",
    ),
    "succeeded": StatusMeaning(
        set_by="a report that names a file, or storage, which found one",
        ended_by="final, unless storage rejects the file (failed)",
        deadline="none",
        user_sees="the order is storing, or completed",
    ),
    "failed": StatusMeaning(
        set_by="a report of the worker's failure, or a file that storage rejected",
        ended_by="final, unless a file turns up later (succeeded)",
        deadline="none",
        user_sees="another attempt, or a failed order",
    ),
    "lost": StatusMeaning(
        set_by="a job that the provider does not know, stopped or forgot, no sign in time, or the order's deadline",
        ended_by="final, unless a file turns up later (succeeded)",
        deadline="none",
        user_sees="another attempt after a lookup, or a failed order",
    ),
    "refused": StatusMeaning(
        set_by="the provider, which certainly did not take the job; or a dispatcher that died before it sent it",
        ended_by="final",
        deadline="none",
        user_sees="nothing: the order is queued again; a rejected request uses up a try",
    ),
    "cancelled": StatusMeaning(
        set_by="a cancel, the end of its order, or the success of another attempt",
        ended_by="final, unless a file turns up later (succeeded)",
        deadline="none; the provider is asked to stop the job, eight times at most",
        user_sees="nothing of the attempt",
    ),
}
