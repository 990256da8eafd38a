"""Orders in memory, for the tests of the rules."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from contracts.generation import FailureCode
from contracts.message import Message
from contracts.storage import AssetRejected, AssetStored, OutputMissing, RejectionCode
from contracts.values import MediaProperties
from generation.domain.gpu_use import GpuUse
from generation.domain.order import Attempt, Order
from generation.domain.policy import Policy
from generation.domain.provider_reports import JobFailed, JobLost, OutputUploaded
from generation.domain.statuses import AttemptStatus, OrderStatus

NOW: Final = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LATER: Final = NOW + timedelta(minutes=5)
POLICY: Final = Policy()


def order(status: OrderStatus = "running", *attempt_statuses: AttemptStatus, **changes: Any) -> Order:
    """An order with one attempt for each status named, the last of them its latest."""
    values: dict[str, Any] = {
        "generation_id": uuid4(),
        "user_id": uuid4(),
        "model_id": "wan-2.2-text-to-video",
        "kind": "video",
        "endpoint": "wan",
        "lane": "standard",
        "price_credits": 30,
        "status": status,
        "version": 4,
        "ready": False,
        "inputs_ready": True,
        "attempt_count": len(attempt_statuses),
        "failures": 0,
        "requested_at": NOW,
        "next_attempt_at": NOW,
        "expires_at": NOW + timedelta(hours=1),
        "deadline_at": NOW + timedelta(hours=1),
        "expected_width_pixels": 832,
        "expected_height_pixels": 480,
        "expected_duration_ms": 5000,
        "max_size_bytes": 1_000_000,
        "output_extension": "mp4",
        "execution_timeout_seconds": 600,
    }
    attempts = [attempt(number, one) for number, one in enumerate(attempt_statuses, start=1)]
    return Order(**(values | changes), attempts=attempts)


def attempt(number: int, status: AttemptStatus) -> Attempt:
    """An attempt as it would look in that state."""
    known = status in ("submitted", "running", "succeeded")
    return Attempt(
        attempt_id=uuid4(),
        attempt_number=number,
        status=status,
        fence_token=1,
        endpoint_id="wan-id",
        check_at=NOW,
        provider_job_id=f"job-{number}" if known else None,
        submitted_at=NOW if known else None,
    )


def uploaded(job_id: str | None = "job-1") -> OutputUploaded:
    """A report of an uploaded file."""
    return OutputUploaded(
        job_id=job_id,
        size_bytes=1000,
        sha256="ab",
        content_type="video/mp4",
        report={"renderer": "x"},
        use=GpuUse(execution_ms=1500),
    )


def failed(*, user_fault: bool = False) -> JobFailed:
    """A report of a failure."""
    code: FailureCode = "invalid_input" if user_fault else "execution_failed"
    return JobFailed(job_id="job-1", code=code, detail="CUDA out of memory", user_fault=user_fault)


def lost_job() -> JobLost:
    """A report without an outcome."""
    return JobLost(job_id=None, code="provider_unavailable", detail="404")


def stored(order: Order, attempt_id: UUID | None = None) -> AssetStored:
    """Storage found a good file of the given attempt, or of the latest one."""
    made = order.attempts[-1] if attempt_id is None else order.get_attempt(attempt_id)
    return AssetStored(
        asset_id=uuid4(),
        generation_id=order.generation_id,
        user_id=order.user_id,
        attempt_id=made.attempt_id,
        attempt_number=made.attempt_number,
        object_key="library/key",
        poster_object_key="library/poster",
        size_bytes=1000,
        sha256="ab",
        media=MediaProperties(content_type="video/mp4", width_pixels=832, height_pixels=480, codec="h264"),
        stored_at=LATER,
    )


def rejected(order: Order, code: RejectionCode = "undecodable") -> AssetRejected:
    """Storage rejected the latest attempt's file."""
    return AssetRejected(
        generation_id=order.generation_id,
        user_id=order.user_id,
        attempt_id=order.attempts[-1].attempt_id,
        attempt_number=order.attempts[-1].attempt_number,
        code=code,
        detail="moov atom not found",
    )


def missing(order: Order, version: int | None = None) -> OutputMissing:
    """Storage found nothing for the open lookup, or for the one of another version."""
    if version is None:
        assert order.lookup is not None
        version = order.lookup.version
    return OutputMissing(generation_id=order.generation_id, user_id=order.user_id, sought_version=version)


def names(order: Order) -> list[str]:
    """What was announced, in order."""
    return [type(event).__name__ for event in order.events]


def only(order: Order) -> Message:
    """The one thing that was announced."""
    [event] = order.events
    return event
