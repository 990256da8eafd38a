"""An order for one clip or picture, the attempts made at it, and what may be said about it at any moment.

``Order`` is loaded under a row lock, changed by the functions of ``domain.provider_news``, ``domain.storage_news`` and
``domain.lifecycle``, and saved. Each change of state adds one to ``version`` and leaves its message in ``events``.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from contracts.generation import FailureCode
from contracts.message import Message
from contracts.object_keys import output_key
from contracts.values import Kind, Lane, OutputClaim

OrderStatus = Literal["queued", "dispatching", "running", "storing", "completed", "failed", "cancelling", "cancelled"]

AttemptStatus = Literal[
    "prepared",  # written down before the provider is called; carries a lease and a fence token
    "unknown",  # the call had no answer: the provider may or may not have the job
    "submitted",  # the provider gave a job id
    "running",
    "succeeded",
    "failed",
    "lost",  # the provider no longer knows it, or never answered
    "refused",  # the provider certainly did not take it: costs no try
    "cancelled",
]

LIVE_ATTEMPT: Final[frozenset[AttemptStatus]] = frozenset({"prepared", "unknown", "submitted", "running"})
FIRST_VERSION: Final = 1
"""Version of an order that was queued and nothing more."""

FINAL: Final[frozenset[OrderStatus]] = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Bounds in time and number; every one is a setting of the service."""

    max_attempts: int = 3
    retry_backoff: timedelta = timedelta(seconds=2)
    retry_backoff_limit: timedelta = timedelta(seconds=60)
    ambiguous_wait: timedelta = timedelta(seconds=60)
    first_check: timedelta = timedelta(seconds=30)
    check_interval: timedelta = timedelta(seconds=60)
    cancel_timeout: timedelta = timedelta(seconds=60)
    storing_timeout: timedelta = timedelta(minutes=10)
    seek_timeout: timedelta = timedelta(minutes=5)

    def backoff(self, failures: int) -> timedelta:
        """Wait before the try that follows the ``failures``-th failure: four times longer each time, bounded."""
        return min(self.retry_backoff_limit, self.retry_backoff * int(4 ** max(0, failures - 1)))


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One run of the work at the provider. ``check_at`` is when to look at it next, whatever state it is in."""

    attempt_id: UUID
    attempt_number: int
    status: AttemptStatus
    fence_token: int
    endpoint_id: str
    check_at: datetime
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

    @property
    def live(self) -> bool:
        """Whether it may be using a worker, as far as anyone knows."""
        return self.status in LIVE_ATTEMPT

    @property
    def may_have_output(self) -> bool:
        """Whether it may have left a file. Failure reports are not proof that it did not."""
        return self.status not in ("prepared", "refused")

    @property
    def file_refused(self) -> bool:
        """Whether storage has looked at its file and will not have it."""
        return self.status == "failed" and self.failure_code in ("output_rejected", "output_missing")

    def end(self, status: AttemptStatus, now: datetime, code: str | None = None, detail: str | None = None) -> None:
        """Move to a last state and remember why."""
        self.status = status
        self.ended_at = now
        self.failure_code = code
        self.failure_detail = detail[:1000] if detail else detail

    def abandon(self, status: AttemptStatus, now: datetime, detail: str) -> None:
        """Stop counting on it: the provider is to be told, so that it does not burn GPU seconds for nothing."""
        self.end(status, now, detail=detail)
        self.cancel_due_at = now


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What an order takes up in its user's queue: ready to be served (0 or 1), and live attempts."""

    ready: int
    active: int


@dataclass(slots=True, kw_only=True)
class Order:
    """One order and its attempts, in attempt order."""

    generation_id: UUID
    user_id: UUID
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
    next_attempt_at: datetime
    expires_at: datetime
    deadline_at: datetime
    expected_width_pixels: int
    expected_height_pixels: int
    expected_duration_ms: int | None
    max_size_bytes: int
    output_extension: str
    execution_timeout_seconds: int
    handed_over_number: int | None = None
    sought_version: int | None = None
    sought_code: FailureCode | None = None
    sought_detail: str | None = None
    sought_retry: bool | None = None
    failure_code: FailureCode | None = None
    failure_detail: str | None = None
    asset_id: UUID | None = None
    late: bool = False
    finished_at: datetime | None = None
    input_object_keys: dict[str, str] | None = None
    traceparent: str | None = None
    attempts: list[Attempt] = field(default_factory=list)
    events: list[Message] = field(default_factory=list)

    @property
    def occupancy(self) -> Occupancy:
        """Its share of the user's counters. The repository writes the difference that a change made."""
        return Occupancy(ready=int(self.ready), active=sum(attempt.live for attempt in self.attempts))

    @property
    def seeking(self) -> bool:
        """Whether storage has been asked if any attempt left a file, and has not answered."""
        return self.sought_version is not None

    def attempt(self, attempt_id: UUID) -> Attempt | None:
        """The attempt of that id, if it is one of this order's."""
        return next((attempt for attempt in self.attempts if attempt.attempt_id == attempt_id), None)

    def is_latest(self, attempt: Attempt) -> bool:
        """Whether no attempt was made after it."""
        return attempt.attempt_number == self.attempt_count

    def move_to(self, status: OrderStatus) -> None:
        """Enter another state. Only a queued order is ready; what had been asked of storage no longer matters."""
        self.status = status
        self.version += 1
        self.ready = False
        self.sought_version = self.sought_code = self.sought_detail = self.sought_retry = None

    def object_key(self, attempt: Attempt) -> str:
        """Where the worker was told to put its file, in the bucket for incoming files."""
        return output_key(self.generation_id, attempt.attempt_number, self.output_extension)

    def claim(self, attempt: Attempt) -> OutputClaim:
        """What is believed of the file that ``attempt`` left or may have left."""
        return OutputClaim(
            attempt_id=attempt.attempt_id,
            attempt_number=attempt.attempt_number,
            object_key=self.object_key(attempt),
            size_bytes=attempt.size_bytes,
            sha256=attempt.sha256,
            content_type=attempt.content_type,
        )
