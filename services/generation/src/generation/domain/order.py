"""An order for one clip or picture, with its attempts.

``Order`` is loaded under a row lock, changed by the functions of ``provider_events``, ``storage_events`` and
``lifecycle``, and saved. Each change of state adds one to ``version`` and leaves its message in ``events``.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from contracts.generation import FailureCode
from contracts.message import Message
from contracts.object_keys import output_key
from contracts.values import Kind, Lane, ReportedOutput
from generation.domain.statuses import LIVE_ATTEMPT_STATUSES, AttemptStatus, OrderStatus

FIRST_VERSION: Final = 1
"""Version of an order that was queued and nothing more."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """An open question to storage: did any attempt leave a file? With what to do if none did.

    ``version`` is the order's when the question was asked; storage's answer repeats it. If no file exists, the order is
    retried (``retry``, unless it has expired) or fails with ``code`` and ``detail``.
    """

    version: int
    code: FailureCode
    detail: str
    retry: bool


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One run of the work at the provider. ``check_at`` is when it is due for a check, whatever state it is in.

    ``domain.gpu_use`` sets what it took of a worker and what it cost, in millionths of a dollar.
    ``sending_at`` is committed before the submission is sent: without it, the provider has never heard of the attempt.
    """

    attempt_id: UUID
    attempt_number: int
    status: AttemptStatus
    fence_token: int
    endpoint_id: str
    check_at: datetime
    prepared_at: datetime | None = None
    sending_at: datetime | None = None
    provider_job_id: str | None = None
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancel_due_at: datetime | None = None
    cancel_tries: int = 0
    failure_code: str | None = None
    failure_detail: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    content_type: str | None = None
    execution_ms: int | None = None
    report: dict[str, Any] | None = None
    worker_id: str | None = None
    gpu_type: str | None = None
    gpu_assumed: bool | None = None
    queue_ms: int | None = None
    cold_start_ms: int | None = None
    execution_assumed: bool | None = None
    cost_micro_usd: int | None = None

    @property
    def may_have_been_sent(self) -> bool:
        """Whether the provider may have been asked to run it."""
        return self.status != "prepared" or self.sending_at is not None

    @property
    def live(self) -> bool:
        """Whether it may be using a worker, as far as anyone knows."""
        return self.status in LIVE_ATTEMPT_STATUSES

    def awaits_answer(self, fence_token: int) -> bool:
        """Whether the submission is open, and ``fence_token`` is that of the dispatcher that may record its answer."""
        return self.status == "prepared" and self.fence_token == fence_token

    @property
    def stoppable(self) -> bool:
        """Whether there is a job to stop, or one whose id may come any moment."""
        return self.live and self.status != "unknown"

    @property
    def may_have_output(self) -> bool:
        """Whether it may have left a file. Failure reports are not proof that it did not."""
        return self.status not in ("prepared", "refused")

    @property
    def output_rejected(self) -> bool:
        """Whether storage has verified its file and rejected it."""
        return self.status == "failed" and self.failure_code in ("output_rejected", "output_missing")

    @property
    def worker_seconds(self) -> float | None:
        """How long the worker ran, as the provider reports it or as is assumed."""
        return None if self.execution_ms is None else self.execution_ms / 1000

    def end(self, status: AttemptStatus, now: datetime, code: str | None = None, detail: str | None = None) -> None:
        """Move to a final state and remember why."""
        self.status = status
        self.ended_at = now
        self.failure_code = code
        self.failure_detail = detail[:1000] if detail else detail

    def abandon(self, status: AttemptStatus, now: datetime, detail: str) -> None:
        """End it and have the provider stop its job, which would burn GPU seconds for nothing."""
        self.end(status, now, detail=detail)
        self.cancel_due_at = now


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What an order takes up in its user's queue: ready to be served (0 or 1), and live attempts."""

    ready: int
    active: int


@dataclass(slots=True, kw_only=True)
class Order:
    """One order and its attempts, sorted by number. ``verifying_number`` is the attempt whose file storage verifies.

    Tier and plan are the catalogue's of the day on which the order came; None for an order that came before they were
    written down.
    """

    generation_id: UUID
    user_id: UUID
    model_id: str
    kind: Kind
    endpoint: str
    lane: Lane
    price_credits: int
    status: OrderStatus
    version: int
    ready: bool
    inputs_ready: bool
    attempt_count: int
    failures: int
    requested_at: datetime
    next_attempt_at: datetime
    expires_at: datetime
    deadline_at: datetime
    start_before_at: datetime | None = None
    expected_width_pixels: int
    expected_height_pixels: int
    expected_duration_ms: int | None
    max_size_bytes: int
    output_extension: str
    execution_timeout_seconds: int
    verifying_number: int | None = None
    lookup: Lookup | None = None
    failure_code: FailureCode | None = None
    failure_detail: str | None = None
    asset_id: UUID | None = None
    late: bool = False
    finished_at: datetime | None = None
    input_object_keys: dict[str, str] | None = None
    traceparent: str | None = None
    tier: str | None = None
    planned_gpu: str | None = None
    planned_cost_micro_usd: int | None = None
    planned_seconds: float | None = None
    attempts: list[Attempt] = field(default_factory=list)
    events: list[Message] = field(default_factory=list)

    @property
    def occupancy(self) -> Occupancy:
        """Its share of its user's counters. The repository writes the difference that a change made."""
        return Occupancy(ready=int(self.ready), active=sum(attempt.live for attempt in self.attempts))

    @property
    def began_at(self) -> datetime | None:
        """When the first sign of a worker came, of whichever attempt."""
        return min((attempt.started_at for attempt in self.attempts if attempt.started_at is not None), default=None)

    @property
    def start_deadline_at(self) -> datetime | None:
        """By when a worker has to begin, as long as none has begun in time."""
        if self.start_before_at is None or (self.began_at is not None and self.began_at <= self.start_before_at):
            return None
        return min(self.start_before_at, self.expires_at)

    @property
    def work_deadline_at(self) -> datetime:
        """When an order that waits or runs is ended."""
        return self.start_deadline_at or self.expires_at

    def find_attempt(self, attempt_id: UUID) -> Attempt | None:
        """The attempt of that id, if it is one of this order's."""
        return next((attempt for attempt in self.attempts if attempt.attempt_id == attempt_id), None)

    def get_attempt(self, attempt_id: UUID) -> Attempt:
        """The attempt of that id, which is known to be one of this order's: an attempt is never removed."""
        attempt = self.find_attempt(attempt_id)
        assert attempt is not None, f"attempt {attempt_id} is none of order {self.generation_id}"
        return attempt

    def is_latest(self, attempt: Attempt) -> bool:
        """Whether no attempt was made after it."""
        return attempt.attempt_number == self.attempt_count

    def move_to(self, status: OrderStatus) -> None:
        """Enter another state. Only a queued order is ready, and an open lookup no longer matters."""
        self.status = status
        self.version += 1
        self.ready = False
        self.lookup = None

    def object_key(self, attempt: Attempt) -> str:
        """Where the worker puts its file, in the bucket for incoming files."""
        return output_key(self.generation_id, attempt.attempt_number, self.output_extension)

    def reported_output(self, attempt: Attempt) -> ReportedOutput:
        """What is known of the file that ``attempt`` left or may have left. Storage verifies it."""
        return ReportedOutput(
            attempt_id=attempt.attempt_id,
            attempt_number=attempt.attempt_number,
            object_key=self.object_key(attempt),
            size_bytes=attempt.size_bytes,
            sha256=attempt.sha256,
            content_type=attempt.content_type,
        )
