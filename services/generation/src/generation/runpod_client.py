"""RunPod's API: run, status, cancel, health. What an answer proves about the job is the type of the exception.

Limits of RunPod (``docs.runpod.io``, checked November 2026): ``/run`` 1000 per 10 s and 200 at a time, which the
endpoint's token bucket and the dispatcher's bound keep; ``/cancel`` 100 per 10 s and 20 at a time; ``/status`` 2000 per
10 s. A result is at most 20 MB.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import msgspec

from generation.domain.provider_reports import UNREADABLE, PlainWord
from generation.metrics import PROVIDER_SECONDS

MAX_RESULT_BYTES: Final = 24 * 1024 * 1024
CANCELS_AT_ONCE: Final = 20
_TRIES: Final = 3
_LONGEST_PAUSE_SECONDS: Final = 5.0
_ABOUT_THE_REQUEST: Final = (400, 413, 422)
"""Any other 3xx or 4xx is about us or about the moment, and holds the queue instead of failing what is in it."""
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class SubmissionFailed(Exception):
    """``/run`` gave no job id."""


class ProviderRefused(SubmissionFailed):
    """The job was certainly not taken, and may be taken later: not sent, 429, 500, 503, no access, no credit, moved.

    ``retry_after_seconds`` is the pause that the provider asked for, if it did.
    """

    def __init__(self, detail: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class ProviderRejected(SubmissionFailed):
    """The job was certainly not taken, and the same request never will be."""


class ProviderUnanswered(SubmissionFailed):
    """The request was sent, and nobody knows what became of it: there may be a job."""


class ProviderUnavailable(Exception):
    """A question that may be repeated (status, cancel, health) had no usable answer."""


class JobPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """Bounds that RunPod keeps. ``ttl`` counts from the submission, waiting included."""

    execution_timeout: int
    ttl: int


class JobRequest(msgspec.Struct, frozen=True):
    """The body of ``/run``."""

    input: dict[str, Any]
    webhook: str
    policy: JobPolicy


class EndpointHealth(msgspec.Struct, frozen=True):
    """The answer of ``/health``: jobs and workers by state."""

    jobs: dict[str, int]
    workers: dict[str, int]


class _Accepted(msgspec.Struct):
    id: PlainWord


class RunPodClient:
    """One per process. ``http`` carries the timeouts and is closed by its owner.

    Those bound each wait for the next byte; ``call_seconds`` bounds the whole of one request and its answer.
    """

    def __init__(self, http: httpx.AsyncClient, api_base: str, api_key: str, call_seconds: float) -> None:
        self._http = http
        self._call_seconds = call_seconds
        self._base = f"{api_base.rstrip('/')}/v2"
        self._headers = {"authorization": f"Bearer {api_key}", "content-type": "application/json"}
        self._cancelling = asyncio.Semaphore(CANCELS_AT_ONCE)

    async def run(self, endpoint_id: str, job: JobRequest) -> str:
        """Submit a job once and return its id.

        Raises ProviderRefused, ProviderRejected or ProviderUnanswered. Never repeats: there is no idempotency key.
        """
        body = msgspec.json.encode(job)
        async with _measured("run"):
            try:
                url = f"{self._base}/{endpoint_id}/run"
                answer = await self._whole(self._http.post(url, content=body, headers=self._headers))
            except _NOT_SENT as error:
                raise ProviderRefused(_named(error)) from error
            except httpx.RequestError as error:
                raise ProviderUnanswered(_named(error)) from error
            return _job_id(answer)

    async def status(self, endpoint_id: str, job_id: str) -> bytes | None:
        """The job object as it was sent, or None if RunPod knows no such job (any more). Raises ProviderUnavailable."""
        url = f"{self._base}/{endpoint_id}/status/{job_id}"
        async with _measured("status"):
            answer = await self._repeated(lambda: self._bounded_get(url))
            if answer.status_code == 404:
                return None
            return _successful(answer).content

    async def cancel(self, endpoint_id: str, job_id: str) -> None:
        """Have the job stopped; one that is over or unknown is as good as stopped. Raises ProviderUnavailable."""
        url = f"{self._base}/{endpoint_id}/cancel/{job_id}"
        async with self._cancelling, _measured("cancel"):
            answer = await self._repeated(lambda: self._http.post(url, headers=self._headers))
            if answer.status_code not in (400, 404):
                _successful(answer)

    async def health(self, endpoint_id: str) -> EndpointHealth:
        """Jobs and workers of an endpoint. Raises ProviderUnavailable."""
        url = f"{self._base}/{endpoint_id}/health"
        async with _measured("health"):
            answer = _successful(await self._repeated(lambda: self._http.get(url, headers=self._headers)))
            try:
                return msgspec.json.decode(answer.content, type=EndpointHealth)
            except UNREADABLE as error:
                raise ProviderUnavailable(f"health: {error}") from error

    async def _bounded_get(self, url: str) -> httpx.Response:
        async with self._http.stream("GET", url, headers=self._headers) as answer:
            body = bytearray()
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > MAX_RESULT_BYTES:
                    raise ProviderUnavailable(f"the answer is larger than {MAX_RESULT_BYTES} bytes")
            return httpx.Response(answer.status_code, headers=_plain(answer.headers), content=bytes(body))

    async def _whole(self, call: Awaitable[httpx.Response]) -> httpx.Response:
        """The answer, if all of it comes in time. Raises httpx.RequestError."""
        try:
            async with asyncio.timeout(self._call_seconds):
                return await call
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"no whole answer within {self._call_seconds:g} s") from error

    async def _repeated(self, call: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        """Ask again after a broken answer or none, 429 or 5xx, as late as the provider says or twice as late."""
        pause = 0.2
        for last in (False,) * (_TRIES - 1) + (True,):
            try:
                answer = await self._whole(call())
            except httpx.RequestError as error:
                if last:
                    raise ProviderUnavailable(_named(error)) from error
            else:
                if last or not (answer.status_code == 429 or answer.status_code >= 500):
                    return answer
                pause = _retry_after(answer) or pause
            await asyncio.sleep(min(pause, _LONGEST_PAUSE_SECONDS))
            pause *= 2
        raise AssertionError("the last try returns or raises")


def _job_id(answer: httpx.Response) -> str:
    status = answer.status_code
    if 200 <= status < 300:
        try:
            return msgspec.json.decode(answer.content, type=_Accepted).id
        except UNREADABLE as error:
            raise ProviderUnanswered(f"{status} without a job id") from error
    detail = f"HTTP {status}: {_words(answer)}"
    if status in _ABOUT_THE_REQUEST:
        raise ProviderRejected(detail)
    if status < 500 or status in (500, 503):
        raise ProviderRefused(detail, _retry_after(answer))
    # A gateway's 502 or 504 says nothing about what happened behind it.
    raise ProviderUnanswered(detail)


def _words(answer: httpx.Response) -> str:
    """The beginning of a body, whatever charset it claims, without the one character that the database refuses."""
    return answer.content[:200].decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _successful(answer: httpx.Response) -> httpx.Response:
    if not answer.is_success:
        raise ProviderUnavailable(f"HTTP {answer.status_code}: {_words(answer)}")
    return answer


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds that the provider asked to wait. RunPod sends a number; a date is not worth reading."""
    value = answer.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else (1.0 if answer.status_code == 429 else None)


def _plain(headers: httpx.Headers) -> dict[str, str]:
    """Without what describes an encoding that has been undone."""
    return {key: value for key, value in headers.items() if key not in ("content-encoding", "content-length")}


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@asynccontextmanager
async def _measured(operation: str) -> AsyncIterator[None]:
    began, outcome = time.perf_counter(), "cancelled"
    try:
        yield
        outcome = "answered"
    except (SubmissionFailed, ProviderUnavailable) as failure:
        outcome = type(failure).__name__
        raise
    finally:
        PROVIDER_SECONDS.labels(operation, outcome).observe(time.perf_counter() - began)
