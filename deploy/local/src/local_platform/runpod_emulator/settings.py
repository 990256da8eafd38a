"""The settings of the emulator. ``PATCH /admin/settings`` changes them while it runs."""

from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from local_platform.runpod_emulator.jobs import JobStatus

Operation = Literal[
    "run",
    "runsync",
    "status",
    "stream",
    "cancel",
    "retry",
    "purge-queue",
    "health",
    "job-take",
    "job-stop",
    "job-done",
    "job-stream",
    "ping",
    "rest-read",
    "rest-create",
    "rest-change",
    "rest-workers",
    "rest-billing",
]
"""All requests except those of the admin API: those of clients, of workers, and of the management API."""

UnavailableState = Literal["INITIALIZING", "THROTTLED", "UNHEALTHY"]


class Limit(BaseModel):
    """Requests to one endpoint in any ten seconds, and at the same time. Beyond that it answers 429."""

    model_config = ConfigDict(extra="forbid")

    per_10_seconds: int = Field(ge=0)
    concurrent: int = Field(ge=0)


DOCUMENTED_LIMITS: Final[dict[Operation, Limit]] = {
    "run": Limit(per_10_seconds=1000, concurrent=200),
    "runsync": Limit(per_10_seconds=2000, concurrent=400),
    "status": Limit(per_10_seconds=2000, concurrent=400),
    "stream": Limit(per_10_seconds=2000, concurrent=400),
    "cancel": Limit(per_10_seconds=100, concurrent=20),
    "purge-queue": Limit(per_10_seconds=2, concurrent=10),
}
"""docs.runpod.io, "Rate limits", November 2026."""


class EmulatorSettings(BaseModel):
    """The defaults are RunPod's, where they are known.

    ``time_scale`` makes RunPod's own long times pass faster: ttl, execution timeout, retention, and the pause between
    webhook tries. The times of workers are not scaled, because the real SDK keeps them.
    """

    model_config = ConfigDict(extra="forbid")

    time_scale: float = Field(default=1.0, gt=0, le=1_000_000)
    run_retention_seconds: float = Field(default=1800, gt=0)
    runsync_retention_seconds: float = Field(default=60, gt=0)
    runsync_wait_seconds: float = Field(default=90, gt=0)
    webhook_tries: int = Field(default=3, ge=1, le=20)
    webhook_retry_seconds: float = Field(default=10, ge=0)
    webhook_timeout_seconds: float = Field(default=10, gt=0)
    webhook_statuses: frozenset[JobStatus] = frozenset({"COMPLETED", "FAILED"})
    worker_lease_seconds: float = Field(default=35, gt=0)
    worker_poll_seconds: float = Field(default=2, gt=0)
    max_retries: int = Field(default=1, ge=0)
    unavailable_workers: dict[UnavailableState, int] = Field(default_factory=dict)
    """Shown beside the workers that poll, for every endpoint."""
    gpu_type: str = "NVIDIA L4"
    """Of every worker, on the bill."""
    usd_per_second: float = Field(default=0.00019, gt=0)
    limits: dict[Operation, Limit] = Field(default_factory=lambda: dict(DOCUMENTED_LIMITS))

    @model_validator(mode="after")
    def _polls_are_shorter_than_the_lease(self) -> Self:
        if self.worker_poll_seconds >= self.worker_lease_seconds:
            raise ValueError("worker_poll_seconds must be shorter than worker_lease_seconds")
        return self
