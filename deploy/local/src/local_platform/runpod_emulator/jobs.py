"""A job, its policy, and its form in RunPod's answers."""

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NotRequired, TypedDict

from pydantic import BaseModel, ConfigDict, Field, JsonValue

JobStatus = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]
FINAL: Final[frozenset[JobStatus]] = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})

GoneBecause = Literal["ttl", "retention", "purged", "lost_in_queue", "lost_while_running"]
"""Why ``/status`` answers 404 for a job that was accepted."""

_DAY_MS: Final = 24 * 3600 * 1000


class Policy(BaseModel):
    """Bounds and defaults as documented by RunPod (docs.runpod.io, "Send API requests", November 2026)."""

    model_config = ConfigDict(populate_by_name=True)

    execution_timeout_ms: int = Field(default=600_000, ge=5_000, le=7 * _DAY_MS, alias="executionTimeout")
    ttl_ms: int = Field(default=_DAY_MS, ge=10_000, le=7 * _DAY_MS, alias="ttl")
    low_priority: bool = Field(default=False, alias="lowPriority")


class Submission(BaseModel):
    """The body of ``/run`` and ``/runsync``. Other fields are ignored, as RunPod does."""

    input: dict[str, JsonValue]
    webhook: str | None = Field(default=None, pattern=r"^https?://")
    policy: Policy = Field(default_factory=Policy)


class StatusBody(TypedDict):
    """The answer of ``/status``. Times are in milliseconds."""

    id: str
    status: JobStatus
    delayTime: NotRequired[int]
    executionTime: NotRequired[int]
    workerId: NotRequired[str]
    output: NotRequired[object]
    error: NotRequired[str]


@dataclass
class Job:
    """One accepted job. Times are in seconds of the event loop's clock."""

    endpoint_id: str
    submission: Submission
    sync: bool
    submitted_at: float
    id: str = ""
    status: JobStatus = "IN_QUEUE"
    worker_id: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    output: Any = None
    progress: Any = None
    error: str | None = None
    retries: int = 0
    stream: list[Any] = field(default_factory=list)
    gone_because: GoneBecause | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.id = f"{'sync-' if self.sync else ''}{uuid.uuid4()}-u1"

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.status in FINAL

    def cancel_timer(self, name: str) -> None:
        """Cancel a timer. Harmless if there is none."""
        timer = self.timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def status_body(self) -> StatusBody:
        """What ``/status`` answers."""
        body: StatusBody = {"id": self.id, "status": self.status}
        if self.started_at is not None:
            body["delayTime"] = round((self.started_at - self.submitted_at) * 1000)
            if self.finished_at is not None:
                body["executionTime"] = round((self.finished_at - self.started_at) * 1000)
        if self.worker_id is not None:
            body["workerId"] = self.worker_id
        output = self.output if self.final else self.progress
        if output is not None:
            body["output"] = output
        if self.error is not None:
            body["error"] = self.error
        return body

    def webhook_body(self) -> dict[str, object]:
        """What the webhook contains: the status, and an echo of the input and of the webhook's own address."""
        status = {key: value for key, value in self.status_body().items() if key != "workerId"}
        echo = self.submission.model_dump(include={"input", "webhook"})
        return {"delayTime": 0, "executionTime": 0, **status, **echo}

    def admin_body(self) -> dict[str, object]:
        """Everything, for tests and operators of the emulator."""
        return {
            **self.status_body(),
            "endpoint": self.endpoint_id,
            "input": self.submission.input,
            "webhook": self.submission.webhook,
            "policy": self.submission.policy.model_dump(by_alias=True),
            "retries": self.retries,
            "gone_because": self.gone_because,
        }
