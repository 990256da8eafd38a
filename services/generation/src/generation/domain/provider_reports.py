"""What the provider reports of a job, in its webhook or its ``/status``, as one of six reports.

Two kinds of worker are understood. Ours uploads its file and reports key, size and checksum. The stock
``worker-comfyui`` returns pictures as base64 or as a URL.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, get_args

import msgspec

from contracts.generation import FailureCode
from generation.domain.stock_answers import find_error, find_file, is_user_fault

FAILURE_CODES: Final[frozenset[str]] = frozenset(get_args(FailureCode))
MAX_REPORT_BYTES: Final = 16 * 1024
"""A worker's report travels in our events; a longer one is dropped rather than carried."""

_REDACTED: Final = (
    (re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE), "<address>"),
    (re.compile(r"\b(?:bearer|basic)\s+[\w.~+/=-]+", re.IGNORECASE), "<key>"),
    (re.compile(r"\b(?:sk|pk|rpa|hf|ghp)[-_]\w{8,}"), "<key>"),
    (re.compile(r"\b[\w-]*(?:token|secret|password|api_?key)\s*[=:]\s*[^\s\"',;]+", re.IGNORECASE), "<key>"),
)
"""What a worker's words may hold and nobody should read: addresses with signatures, and keys."""

PlainWord = Annotated[str, msgspec.Meta(pattern=r"^[\x20-\x7e]{1,200}\Z")]
"""What the database, our messages and an address can certainly carry."""
_LARGEST_INTEGER: Final = 2**62
UNREADABLE: Final[tuple[type[Exception], ...]] = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of bytes that are not JSON, not UTF-8, or nested too deep."""


@dataclass(frozen=True, slots=True)
class JobQueued:
    """In the provider's queue."""

    outcome: ClassVar = "queued"
    job_id: str | None


@dataclass(frozen=True, slots=True)
class JobRunning:
    """On a worker."""

    outcome: ClassVar = "running"
    job_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputUploaded:
    """Finished; the worker reports that its file lies under its key in the bucket for incoming files."""

    outcome: ClassVar = "uploaded"
    job_id: str | None
    size_bytes: int | None
    sha256: str | None
    content_type: str | None
    execution_ms: int | None
    report: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputReturned:
    """Finished; the file is in the report itself (``data`` is base64) or at a foreign address (``data`` is a URL)."""

    outcome: ClassVar = "returned"
    job_id: str | None
    filename: str
    is_url: bool
    data: str
    execution_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailed:
    """The worker ran and failed. ``user_fault``: the job can never succeed as asked."""

    outcome: ClassVar = "failed"
    job_id: str | None
    code: FailureCode
    detail: str
    user_fault: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLost:
    """Over with an unknown outcome: timed out, cancelled by someone else, forgotten, or completed without a file."""

    outcome: ClassVar = "lost"
    job_id: str | None
    code: FailureCode
    detail: str


Report = JobQueued | JobRunning | OutputUploaded | OutputReturned | JobFailed | JobLost
"""``outcome`` is how a report is counted and recorded."""


class UnreadableReport(Exception):
    """The body is no job report. It proves nothing about the job."""


class _Job(msgspec.Struct):
    status: str
    id: PlainWord | None = None
    executionTime: int | float | None = None
    output: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


class _UploadedFile(msgspec.Struct):
    size_bytes: Annotated[int, msgspec.Meta(ge=0, le=_LARGEST_INTEGER)] | None = None
    sha256: PlainWord | None = None
    content_type: PlainWord | None = None


class _OurOutput(msgspec.Struct):
    outputs: list[_UploadedFile]
    report: dict[str, Any] | None = None


class _WorkerError(msgspec.Struct):
    code: str
    detail: str = ""
    operator_detail: str = ""
    user_fault: bool = False


class _SdkError(msgspec.Struct):
    error_message: str
    error_type: str = ""


def read_report(body: bytes, output_extension: str) -> Report:
    """Read one job object. ``output_extension`` picks the wanted file among several of a stock worker.

    Raises:
        UnreadableReport: the body is no readable JSON, is no job object, or names an unknown status.
    """
    try:
        job = msgspec.json.decode(body, type=_Job)
    except UNREADABLE as error:
        raise UnreadableReport(str(error)) from error
    match job.status:
        case "IN_QUEUE":
            return JobQueued(job.id)
        case "IN_PROGRESS" | "RUNNING":
            return JobRunning(job.id)
        case "COMPLETED":
            return _completed(job, output_extension)
        case "FAILED":
            return _failed(job)
        case "TIMED_OUT":
            return JobLost(job_id=job.id, code="execution_timeout", detail="the provider stopped the job: TIMED_OUT")
        case "CANCELLED":
            return JobLost(job_id=job.id, code="provider_unavailable", detail="the job was cancelled at the provider")
        case _:
            raise UnreadableReport(f"unknown job status {job.status[:40]!r}")


def _completed(job: _Job, output_extension: str) -> Report:
    execution_ms = None
    if job.executionTime is not None and 0 <= job.executionTime <= _LARGEST_INTEGER:
        execution_ms = round(job.executionTime)
    ours = _decode(job.output, _OurOutput)
    if ours is not None and ours.outputs:
        file = ours.outputs[0]
        return OutputUploaded(
            job_id=job.id,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            content_type=file.content_type,
            execution_ms=execution_ms,
            report=_bounded(ours.report),
        )
    output = _decode(job.output, Any)
    file = find_file(output, output_extension)
    if file is not None:
        return OutputReturned(
            job_id=job.id, filename=file.filename, is_url=file.is_url, data=file.data, execution_ms=execution_ms
        )
    if find_error(output) or _decode(job.error, Any):
        return _failed(job)
    return JobLost(job_id=job.id, code="output_missing", detail="the job completed without naming an output")


def _failed(job: _Job) -> JobFailed:
    message = _error_text(job)
    raised = _decode(message.encode(), _WorkerError)
    if raised is not None:
        named = "invalid_input" if raised.user_fault else raised.code
        return JobFailed(
            job_id=job.id,
            code=named if named in FAILURE_CODES else "execution_failed",  # type: ignore[arg-type]
            detail=_storable(raised.operator_detail or raised.detail or raised.code),
            user_fault=raised.user_fault,
        )
    crashed = _decode(message.encode(), _SdkError)
    if crashed is not None:
        message = f"{crashed.error_type}: {crashed.error_message}" if crashed.error_type else crashed.error_message
    # RunPod's SDK takes ``error`` out of the output, and leaves the details there.
    details = find_error(_decode(job.output, Any))
    if details not in message:
        message = f"{message}; {details}"
    detail = _storable(message) or "the worker gave no reason"
    user_fault = is_user_fault(message)
    code: FailureCode = "invalid_input" if user_fault else "execution_failed"
    return JobFailed(job_id=job.id, code=code, detail=detail, user_fault=user_fault)


def _error_text(job: _Job) -> str:
    """The worker's message: the provider puts it in ``error``, or in ``output`` whole or as its ``error``."""
    for raw in (job.error, job.output):
        value = _decode(raw, Any)
        value = find_error(value) or value
        if isinstance(value, str) and value:
            return value
        if value:
            return msgspec.json.encode(value).decode()
    return ""


def _bounded(report: dict[str, Any] | None) -> dict[str, Any] | None:
    """The worker's report, unless the database could not hold it."""
    encoded = msgspec.json.encode(report)
    return report if len(encoded) <= MAX_REPORT_BYTES and b"\\u0000" not in encoded else None


def _storable(text: str) -> str:
    """Without the one character that the database refuses, and without addresses and keys."""
    for pattern, instead in _REDACTED:
        text = pattern.sub(instead, text)
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _decode(raw: bytes | msgspec.Raw, type_: Any) -> Any:
    """The decoded value, or None where the bytes are something else: the caller then tries another shape."""
    try:
        return msgspec.json.decode(raw, type=type_)
    except UNREADABLE:
        return None
