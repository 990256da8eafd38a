"""What generation announces, and the commands it takes.

Every event carries ``version``, the number of state changes of the generation so far: a reader keeps the highest.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Final, Literal
from uuid import UUID

from contracts.message import Message, Service
from contracts.values import Kind, MediaProperties, ReportedOutput

FailureCode = Literal[
    "invalid_input",  # the work can never succeed as asked: the user's error
    "execution_failed",  # the worker ran and failed
    "execution_timeout",  # it ran longer than the model's limit
    "provider_unavailable",  # the provider lost or refused it too many times
    "output_missing",  # reported as done, but there is no file
    "output_rejected",  # a file was found, and is not what was asked for
    "deadline_exceeded",  # the order's own deadline passed
    "not_started_in_time",  # no worker had begun when the user's limit for that passed
    "out_of_memory",  # memory ran out on the worker, in its most frugal way too
    "worker_misconfigured",  # the worker lacks a model file or a node, or has a damaged one
    "worker_unavailable",  # what renders on the worker died, hung, or does not start
    "input_unavailable",  # the worker could not fetch a file of the order
    "upload_failed",  # the worker could not deliver its file
    "output_too_large",  # the worker's file is larger than the model may make
    "malformed_job",  # the worker does not understand what it was sent
]
"""The codes of our own worker are among them; a test holds that."""

FAILURE_SENTENCES: Final[Mapping[FailureCode, str]] = {
    "invalid_input": "What was ordered cannot be rendered. Change the prompt, the parameters or the picture.",
    "execution_failed": "The work failed on our side.",
    "execution_timeout": "The work took longer than it may.",
    "provider_unavailable": "There was no GPU that could finish the work.",
    "output_missing": "The work ended without a file.",
    "output_rejected": "The work ended with a file that is not what was ordered.",
    "deadline_exceeded": "The work could not be done in time.",
    "not_started_in_time": "No GPU began the work in the time that the order allowed.",
    "out_of_memory": "The work needed more memory than our GPUs have.",
    "worker_misconfigured": "A GPU worker was not set up for the work.",
    "worker_unavailable": "The GPU worker stopped before the work was done.",
    "input_unavailable": "A file of the order could not be fetched.",
    "upload_failed": "The finished file could not be delivered.",
    "output_too_large": "The finished file is too large.",
    "malformed_job": "The work failed on our side.",
}
"""What a customer reads. The words of workers and providers are for operators: they may say anything."""


class CancelGeneration(Message, frozen=True, kw_only=True):
    """A user wants a generation stopped. It may come before the generation is known here, and is kept until it is.

    Without ``stop_running`` it stops only what no worker has: the user's allowance for the rest is used up.
    """

    subject: ClassVar[str] = "generation.command.cancel-generation.v1"
    producers: ClassVar[tuple[Service, ...]] = ("gateway",)
    consumers: ClassVar[tuple[Service, ...]] = ("generation", "auditor")

    generation_id: UUID
    user_id: UUID
    requested_at: datetime
    stop_running: bool = True


class GenerationQueued(Message, frozen=True, kw_only=True):
    """A funded order waits for its turn."""

    subject: ClassVar[str] = "generation.event.generation-queued.v1"
    history: ClassVar[bool] = True
    producers: ClassVar[tuple[Service, ...]] = ("generation",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "auditor")

    generation_id: UUID
    user_id: UUID
    version: int
    lane: str


class GenerationDispatched(Message, frozen=True, kw_only=True):
    """An attempt was accepted by the provider."""

    subject: ClassVar[str] = "generation.event.generation-dispatched.v1"
    history: ClassVar[bool] = True
    producers: ClassVar[tuple[Service, ...]] = ("generation",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "auditor")

    generation_id: UUID
    user_id: UUID
    version: int
    attempt_id: UUID
    attempt_number: int
    endpoint_id: str
    provider_job_id: str
    submitted_at: datetime


class GenerationStarted(Message, frozen=True, kw_only=True):
    """A worker began to render."""

    subject: ClassVar[str] = "generation.event.generation-started.v1"
    history: ClassVar[bool] = True
    producers: ClassVar[tuple[Service, ...]] = ("generation",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "auditor")

    generation_id: UUID
    user_id: UUID
    version: int
    attempt_id: UUID
    attempt_number: int
    started_at: datetime


class AttemptFailed(Message, frozen=True, kw_only=True):
    """One attempt failed. With ``retry_at`` another one follows under the same reservation."""

    subject: ClassVar[str] = "generation.event.attempt-failed.v1"
    history: ClassVar[bool] = True
    producers: ClassVar[tuple[Service, ...]] = ("generation",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "auditor")

    generation_id: UUID
    user_id: UUID
    version: int
    attempt_id: UUID
    attempt_number: int
    code: FailureCode
    detail: str
    retry_at: datetime | None = None


class OutputReady(Message, frozen=True, kw_only=True):
    """A worker says that it uploaded a file: storage is to verify it and move it to the library.

    ``late``: the order had ended without a file before, and is still ended unless this file proves to be good.
    """

    subject: ClassVar[str] = "generation.event.output-ready.v1"
    producers: ClassVar[tuple[Service, ...]] = ("generation",)
    consumers: ClassVar[tuple[Service, ...]] = ("storage", "gateway", "auditor")

    generation_id: UUID
    user_id: UUID
    version: int
    kind: Kind
    claim: ReportedOutput
    expected_width_pixels: int
    expected_height_pixels: int
    expected_duration_ms: int | None = None
    expected_extension: str | None = None
    max_size_bytes: int
    callback_received_at: datetime | None = None
    late: bool = False


class OutputSought(Message, frozen=True, kw_only=True):
    """The provider gave no answer or a failure: did any attempt leave a file? Only storage can look it up.

    ``claims`` lists every attempt's deterministic key, newest first. Storage answers asset-stored for the first that
    verifies, and output-missing if none is there.
    """

    subject: ClassVar[str] = "generation.event.output-sought.v1"
    producers: ClassVar[tuple[Service, ...]] = ("generation",)
    consumers: ClassVar[tuple[Service, ...]] = ("storage", "auditor")

    generation_id: UUID
    user_id: UUID
    version: int
    kind: Kind
    claims: tuple[ReportedOutput, ...]
    expected_width_pixels: int
    expected_height_pixels: int
    expected_duration_ms: int | None = None
    expected_extension: str | None = None
    max_size_bytes: int


class GenerationCompleted(Message, frozen=True, kw_only=True):
    """A verified object exists. Billing captures ``capture_credits``, or nothing if they went back (``late``)."""

    subject: ClassVar[str] = "generation.event.generation-completed.v1"
    producers: ClassVar[tuple[Service, ...]] = ("generation",)
    consumers: ClassVar[tuple[Service, ...]] = ("billing", "gateway", "auditor")

    generation_id: UUID
    user_id: UUID
    version: int
    attempt_number: int
    asset_id: UUID
    capture_credits: int
    late: bool
    media: MediaProperties
    worker_seconds: float | None = None
    worker_report: dict[str, Any] | None = None
    completed_at: datetime


class GenerationFailed(Message, frozen=True, kw_only=True):
    """No file will come: the credits go back."""

    subject: ClassVar[str] = "generation.event.generation-failed.v1"
    producers: ClassVar[tuple[Service, ...]] = ("generation",)
    consumers: ClassVar[tuple[Service, ...]] = ("billing", "gateway", "auditor")

    generation_id: UUID
    user_id: UUID
    version: int
    code: FailureCode
    detail: str
    failed_at: datetime


class GenerationCancelling(Message, frozen=True, kw_only=True):
    """A cancel was accepted, and the provider is being told to stop."""

    subject: ClassVar[str] = "generation.event.generation-cancelling.v1"
    history: ClassVar[bool] = True
    producers: ClassVar[tuple[Service, ...]] = ("generation",)
    consumers: ClassVar[tuple[Service, ...]] = ("gateway", "auditor")

    generation_id: UUID
    user_id: UUID
    version: int


class GenerationCancelled(Message, frozen=True, kw_only=True):
    """The user's cancel won: the credits go back."""

    subject: ClassVar[str] = "generation.event.generation-cancelled.v1"
    producers: ClassVar[tuple[Service, ...]] = ("generation",)
    consumers: ClassVar[tuple[Service, ...]] = ("billing", "gateway", "auditor")

    generation_id: UUID
    user_id: UUID
    version: int
    cancelled_at: datetime
