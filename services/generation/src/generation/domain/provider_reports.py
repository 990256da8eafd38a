"""What the provider reports of a job, in its webhook or its ``/status``, as one of six reports.

Two kinds of worker are understood. Ours uploads its file and reports key, size and checksum. The stock
``worker-comfyui`` returns pictures as base64 or as a URL. Each field is read on its own (``loose_json``): only a body
without a known status is unreadable.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, get_args

import msgspec

from contracts.generation import FailureCode
from generation.domain import loose_json
from generation.domain.gpu_use import NOTHING_TOLD, GpuUse
from generation.domain.loose_json import LARGEST_INTEGER, PlainWord
from generation.domain.operator_words import operator_words
from generation.domain.stock_answers import find_error, find_file, is_user_fault

FAILURE_CODES: Final[frozenset[str]] = frozenset(get_args(FailureCode))
MAX_REPORT_BYTES: Final = 16 * 1024
"""A worker's report travels in our events; a longer one is dropped rather than carried."""
_MAX_WORD: Final = 200
_LONGEST_COLD_START_SECONDS: Final = 86_400
_LONGEST_ERROR: Final = 64 * 1024
"""Characters that are searched for a reason; a worker may say 20 MB."""
_LONGEST_MS: Final = 30 * 86_400 * 1000
"""RunPod lets a job run for 7 days at most; what is far beyond that is no time of a job."""


@dataclass(frozen=True, slots=True)
class JobQueued:
    """In the provider's queue."""

    outcome: ClassVar = "queued"
    job_id: str | None
    use: GpuUse = NOTHING_TOLD


@dataclass(frozen=True, slots=True)
class JobRunning:
    """On a worker."""

    outcome: ClassVar = "running"
    job_id: str | None
    use: GpuUse = NOTHING_TOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputUploaded:
    """Finished; the worker reports that its file lies under its key in the bucket for incoming files."""

    outcome: ClassVar = "uploaded"
    job_id: str | None
    size_bytes: int | None
    sha256: str | None
    content_type: str | None
    report: dict[str, Any] | None
    use: GpuUse = NOTHING_TOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputReturned:
    """Finished; the file is in the report itself (``data`` is base64) or at a foreign address (``data`` is a URL)."""

    outcome: ClassVar = "returned"
    job_id: str | None
    filename: str
    is_url: bool
    data: str
    use: GpuUse = NOTHING_TOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailed:
    """The worker ran and failed. ``user_fault``: the job can never succeed as asked."""

    outcome: ClassVar = "failed"
    job_id: str | None
    code: FailureCode
    detail: str
    user_fault: bool
    report: dict[str, Any] | None = None
    use: GpuUse = NOTHING_TOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLost:
    """Over with an unknown outcome: timed out, cancelled by someone else, forgotten, or completed without a file."""

    outcome: ClassVar = "lost"
    job_id: str | None
    code: FailureCode
    detail: str
    use: GpuUse = NOTHING_TOLD


Report = JobQueued | JobRunning | OutputUploaded | OutputReturned | JobFailed | JobLost
"""``outcome`` is how a report is counted and recorded."""


class UnreadableReport(Exception):
    """The body is no job report. It proves nothing about the job."""


class _UploadedFile(msgspec.Struct):
    size_bytes: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_INTEGER)] | None = None
    sha256: PlainWord | None = None
    content_type: PlainWord | None = None


class _Job:
    """The fields of a job object, each read when it is asked for."""

    def __init__(self, fields: Mapping[str, msgspec.Raw]) -> None:
        self.fields = fields
        self.id = loose_json.word(fields.get("id"))
        self.output = fields.get("output", _NULL)

    def use(self, report: dict[str, Any] | None = None) -> GpuUse:
        """What the provider says, and where it says nothing what the worker says in its report."""
        told = report or {}
        return GpuUse(
            worker_id=loose_json.word(self.fields.get("workerId")) or _word(told.get("worker_id")),
            gpu_type=_word(told.get("gpu")),
            queue_ms=loose_json.number(self.fields.get("delayTime"), _LONGEST_MS),
            cold_start_ms=_milliseconds(told.get("cold_start_seconds")),
            execution_ms=loose_json.number(self.fields.get("executionTime"), _LONGEST_MS),
        )


_NULL: Final = msgspec.Raw(b"null")


def read_report(body: bytes, output_extension: str) -> Report:
    """Read one job object. ``output_extension`` picks the wanted file among several of a stock worker.

    Raises:
        UnreadableReport: the body is no job object, or names no status that is known.
    """
    fields = loose_json.read_fields(body)
    if fields is None:
        raise UnreadableReport("the body is no JSON object that can be read")
    job = _Job(fields)
    status = loose_json.word(fields.get("status"))
    match status:
        case "IN_QUEUE":
            return JobQueued(job.id, job.use())
        case "IN_PROGRESS" | "RUNNING":
            return JobRunning(job.id, job.use())
        case "COMPLETED":
            return _completed(job, output_extension)
        case "FAILED":
            return _failed(job)
        case "TIMED_OUT":
            detail = "the provider stopped the job: TIMED_OUT"
            return JobLost(job_id=job.id, code="execution_timeout", detail=detail, use=job.use())
        case "CANCELLED":
            detail = "the job was cancelled at the provider"
            return JobLost(job_id=job.id, code="provider_unavailable", detail=detail, use=job.use())
        case _:
            # A word of the provider's is worth reading; anything else may be what nobody should read.
            named = status if status and re.fullmatch(r"[A-Z_]{1,40}", status) else "of another shape"
            raise UnreadableReport(f"unknown job status {named}")


def _completed(job: _Job, output_extension: str) -> Report:
    ours = loose_json.read_fields(job.output) or {}
    files = loose_json.read(ours.get("outputs", _NULL), list[_UploadedFile])
    if files:
        report = _bounded(ours.get("report", _NULL))
        return OutputUploaded(
            job_id=job.id,
            size_bytes=files[0].size_bytes,
            sha256=files[0].sha256,
            content_type=files[0].content_type,
            report=report,
            use=job.use(report),
        )
    output = loose_json.read(job.output, Any)
    file = find_file(output, output_extension)
    if file is not None:
        return OutputReturned(job_id=job.id, filename=file.filename, is_url=file.is_url, data=file.data, use=job.use())
    if find_error(output) or loose_json.read(job.fields.get("error", _NULL), Any):
        return _failed(job)
    detail = "the job completed without naming an output"
    return JobLost(job_id=job.id, code="output_missing", detail=detail, use=job.use())


def _failed(job: _Job) -> JobFailed:
    message = _error_text(job)
    told = loose_json.read_fields(message.encode()) or {}
    code = loose_json.read(told.get("code", _NULL), str)
    if code is not None:
        return _failed_as_told(job, code, told)
    crashed = loose_json.read(told.get("error_message", _NULL), str)
    if crashed is not None:
        kind = loose_json.read(told.get("error_type", _NULL), str)
        message = f"{kind}: {crashed}" if kind else crashed
    # RunPod's SDK takes ``error`` out of the output, and leaves the details there.
    details = find_error(loose_json.read(job.output, Any))
    if details not in message:
        message = f"{message}; {details}"
    user_fault = is_user_fault(message)
    return JobFailed(
        job_id=job.id,
        code="invalid_input" if user_fault else "execution_failed",
        detail=operator_words(message) or "the worker gave no reason",
        user_fault=user_fault,
        use=job.use(),
    )


def _failed_as_told(job: _Job, code: str, told: Mapping[str, msgspec.Raw]) -> JobFailed:
    """Our worker's own words on its failure."""
    user_fault = loose_json.read(told.get("user_fault", _NULL), bool) is True
    named = "invalid_input" if user_fault else code
    details = (loose_json.read(told.get(name, _NULL), str) for name in ("operator_detail", "detail"))
    report = _bounded(told.get("report", _NULL))
    return JobFailed(
        job_id=job.id,
        code=named if named in FAILURE_CODES else "execution_failed",  # type: ignore[arg-type]
        detail=operator_words(next((detail for detail in details if detail), code)),
        user_fault=user_fault,
        report=report,
        use=job.use(report),
    )


def _error_text(job: _Job) -> str:
    """The worker's message: the provider puts it in ``error``, or in ``output`` whole or as its ``error``."""
    for raw in (job.fields.get("error", _NULL), job.output):
        value = loose_json.read(raw, Any)
        value = find_error(value) or value
        if isinstance(value, str) and value:
            return value[:_LONGEST_ERROR]
        if value:
            return msgspec.json.encode(value).decode()[:_LONGEST_ERROR]
    return ""


def _bounded(raw: msgspec.Raw) -> dict[str, Any] | None:
    """The worker's report, unless the database could not hold it."""
    report: dict[str, Any] | None = loose_json.read(raw, dict[str, Any])
    encoded = msgspec.json.encode(report)
    return report if len(encoded) <= MAX_REPORT_BYTES and b"\\u0000" not in encoded else None


def _word(value: object) -> str | None:
    """A short text of a worker's report, of plain characters."""
    fits = isinstance(value, str) and 0 < len(value) <= _MAX_WORD and value.isascii() and value.isprintable()
    return str(value) if fits else None


def _milliseconds(seconds: object) -> int | None:
    """Seconds of a worker's report, of at most a day."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    return round(1000 * seconds) if 0 <= seconds <= _LONGEST_COLD_START_SECONDS else None
