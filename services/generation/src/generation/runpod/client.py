"""Calls of RunPod's API: run, status, cancel, health; and of its REST API: an endpoint's bounds, and the bill.

Limits of RunPod (``docs.runpod.io``, checked November 2026): ``/run`` 1000 per 10 s and 200 at a time, which the
endpoint's token bucket and the dispatcher's bound keep; ``/cancel`` 100 per 10 s and 20 at a time; ``/status`` 2000 per
10 s. A result is at most 20 MB.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final
from urllib.parse import urlencode

import httpx
import msgspec

from generation.domain import loose_json
from generation.domain.operator_words import operator_words
from generation.metrics import PROVIDER_SECONDS, count_answer
from generation.runpod.answers import (
    ProviderRefused,
    ProviderUnanswered,
    SubmissionFailed,
    excerpt,
    read_job_id,
    retry_after_seconds,
)
from generation.runpod.job import JobRequest, KeepAliveRequest
from generation.settings import REST_BASE
from service_runtime.backoff import Backoff
from service_runtime.bounded_http import bound
from service_runtime.tracing import step

MAX_RESULT_BYTES: Final = 24 * 1024 * 1024
CANCELS_AT_ONCE: Final = 20
POLLS_AT_ONCE: Final = 8
"""For each endpoint. A result may be 20 MB."""
_TRIES: Final = 3
_MOST_WORKERS: Final = 1_000_000
_MOST_COUNTED: Final = 2**31 - 1
_LONGEST_PAUSE_SECONDS: Final = 5.0
_BACKOFF: Final = Backoff(first=timedelta(seconds=0.2), longest=timedelta(seconds=_LONGEST_PAUSE_SECONDS))
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class ProviderUnavailable(Exception):
    """A call that may be repeated (status, cancel, health) had no usable answer."""

    outcome: Final = "unavailable"


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """The answer of ``/health``: jobs and workers by state, as RunPod names the states."""

    jobs: Mapping[str, int]
    workers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class BilledTime:
    """A line of RunPod's bill: an endpoint in one hour. ``usd`` is exact, as it was written."""

    endpoint_id: str
    usd: Decimal
    milliseconds: int


class RunPodClient:
    """One per process. ``transport`` is closed by its owner.

    ``timeout_seconds`` bounds each wait for a connection and for the next byte; ``call_seconds`` bounds the whole of
    one request and its answer.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        api_base: str,
        api_key: str,
        *,
        timeout_seconds: float,
        call_seconds: float,
        rest_base: str = REST_BASE,
        max_answer_bytes: int = MAX_RESULT_BYTES,
    ) -> None:
        self._transport = transport
        self._call_seconds = call_seconds
        self._max_answer_bytes = max_answer_bytes
        self._base = f"{api_base.rstrip('/')}/v2"
        self._rest = f"{rest_base.rstrip('/')}/v1"
        self._headers = {
            "accept": "*/*",
            "accept-encoding": "identity",
            "authorization": f"Bearer {api_key}",
            "content-type": "application/json",
            "user-agent": f"python-httpx/{httpx.__version__}",
        }
        self._extensions = {"timeout": httpx.Timeout(timeout_seconds).as_dict()}
        self._cancelling = asyncio.Semaphore(CANCELS_AT_ONCE)

    async def run(self, endpoint_id: str, job: JobRequest | KeepAliveRequest) -> str:
        """Submit a job once and return its id.

        Raises ProviderRefused, ProviderRejected or ProviderUnanswered. Never repeats: there is no idempotency key.
        """
        body = msgspec.json.encode(job)
        async with _measured("run"):
            try:
                url = f"{self._base}/{endpoint_id}/run"
                answer = await self._complete("run", self._send("POST", url, body))
            except _NOT_SENT as error:
                raise ProviderRefused(_describe(error)) from error
            except httpx.RequestError as error:
                raise ProviderUnanswered(_describe(error)) from error
            return read_job_id(answer)

    async def status(self, endpoint_id: str, job_id: str) -> bytes | None:
        """The job object as it was sent, or None if RunPod knows no such job (any more). Raises ProviderUnavailable."""
        url = f"{self._base}/{endpoint_id}/status/{job_id}"
        async with _measured("status"):
            answer = await self._with_retries("status", url, lambda: self._get(url))
            if answer.status_code == 404:
                return None
            return _successful(answer).content

    async def cancel(self, endpoint_id: str, job_id: str) -> None:
        """Have the job stopped; one that is over or unknown counts as stopped. Raises ProviderUnavailable."""
        url = f"{self._base}/{endpoint_id}/cancel/{job_id}"
        async with self._cancelling, _measured("cancel"):
            answer = await self._with_retries("cancel", url, lambda: self._send("POST", url))
            if answer.status_code not in (400, 404):
                _successful(answer)

    async def health(self, endpoint_id: str) -> EndpointHealth:
        """Jobs and workers of an endpoint. A count that is none is left out. Raises ProviderUnavailable."""
        url = f"{self._base}/{endpoint_id}/health"
        async with _measured("health"):
            answer = _successful(await self._with_retries("health", url, lambda: self._get(url)))
            fields = loose_json.read_fields(answer.content)
            if fields is None:
                raise ProviderUnavailable("health: the answer is no JSON object")
            return EndpointHealth(_counts(fields.get("jobs")), _counts(fields.get("workers")))

    async def max_workers(self, endpoint_id: str) -> int | None:
        """How many workers the endpoint may have; None if the key may not ask. Raises ProviderUnavailable."""
        url = f"{self._rest}/endpoints/{endpoint_id}"
        async with _measured("endpoint"):
            answer = await self._with_retries("endpoint", url, lambda: self._get(url))
            if answer.status_code in (401, 403, 404):
                return None
            fields = loose_json.read_fields(_successful(answer).content) or {}
            return loose_json.number(fields.get("workersMax"), _MOST_WORKERS)

    async def billed(self, begin: datetime, end: datetime) -> list[BilledTime]:
        """What RunPod bills for every endpoint of the key, by the hour. Raises ProviderUnavailable."""
        times = {"startTime": begin.isoformat(), "endTime": end.isoformat()}
        query = urlencode({**times, "bucketSize": "hour", "grouping": "endpointId"})
        url = f"{self._rest}/billing/endpoints?{query}"
        async with _measured("billing"):
            answer = _successful(await self._with_retries("billing", url, lambda: self._get(url)))
            records = loose_json.read(answer.content, list[dict[str, msgspec.Raw]])
            if records is None:
                raise ProviderUnavailable("billing: the answer is no list of records")
            return [line for record in records if (line := _billed(record)) is not None]

    async def _get(self, url: str) -> httpx.Response:
        return await self._send("GET", url)

    async def _send(self, method: str, url: str, body: bytes = b"") -> httpx.Response:
        """One request and its whole answer. Raises httpx.RequestError.

        Without ``httpx.AsyncClient``: redirects, cookies and the like are no part of this API, and cost as much again.
        """
        request = httpx.Request(method, url, headers=self._headers, content=body, extensions=self._extensions)
        answer = await self._transport.handle_async_request(request)
        answer.request = request
        try:
            bound(answer, self._max_answer_bytes)
            await answer.aread()
        finally:
            await answer.aclose()
        return answer

    async def _complete(self, operation: str, call: Awaitable[httpx.Response]) -> httpx.Response:
        """The complete answer, if it comes in time. Raises httpx.RequestError."""
        status = None
        try:
            async with asyncio.timeout(self._call_seconds):
                answer = await call
            status = answer.status_code
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"no complete answer within {self._call_seconds:g} s") from error
        else:
            return answer
        finally:
            count_answer(operation, status)

    async def _with_retries(
        self, operation: str, url: str, call: Callable[[], Awaitable[httpx.Response]]
    ) -> httpx.Response:
        """Repeat a call of ``url`` after a broken answer or none, 429 or 5xx: when the provider says, or ever later."""
        for tries in range(1, _TRIES):
            pause = None
            with contextlib.suppress(httpx.RequestError):
                answer = await self._complete(operation, call())
                if not (answer.status_code == 429 or answer.status_code >= 500):
                    return answer
                pause = retry_after_seconds(answer)
            await asyncio.sleep(min(pause or _BACKOFF.seconds(tries, url), _LONGEST_PAUSE_SECONDS))
        try:
            return await self._complete(operation, call())
        except httpx.RequestError as error:
            raise ProviderUnavailable(_describe(error)) from error


def _successful(answer: httpx.Response) -> httpx.Response:
    if not answer.is_success:
        raise ProviderUnavailable(f"HTTP {answer.status_code}: {excerpt(answer)}")
    return answer


def _counts(raw: msgspec.Raw | None) -> dict[str, int]:
    """The whole numbers of an object, by name."""
    fields = {} if raw is None else loose_json.read_fields(raw) or {}
    counted = {name: loose_json.number(value, _MOST_COUNTED) for name, value in fields.items()}
    return {name: number for name, number in counted.items() if number is not None}


def _billed(record: Mapping[str, msgspec.Raw]) -> BilledTime | None:
    """A line of the bill, unless it says neither whose nor how much."""
    endpoint_id = loose_json.word(record.get("endpointId"))
    try:
        usd = Decimal(bytes(record.get("amount", b"")).decode().strip('"'))
    except (ArithmeticError, ValueError):
        return None
    if endpoint_id is None or not usd.is_finite():
        return None
    return BilledTime(endpoint_id, usd, loose_json.number(record.get("timeBilledMs")) or 0)


def _describe(error: Exception) -> str:
    return operator_words(f"{type(error).__name__}: {error}")


@contextlib.asynccontextmanager
async def _measured(operation: str) -> AsyncIterator[None]:
    began, outcome = time.perf_counter(), "cancelled"
    try:
        with step(f"runpod {operation}", attributes={"peer.service": "runpod"}):
            yield
        outcome = "answered"
    except (SubmissionFailed, ProviderUnavailable) as failure:
        outcome = failure.outcome
        raise
    finally:
        PROVIDER_SECONDS.labels(operation, outcome).observe(time.perf_counter() - began)
