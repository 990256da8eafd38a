"""What each answer of the provider proves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import httpx
import pytest
from prometheus_client import REGISTRY

from generation.runpod.answers import ProviderRefused, ProviderRejected, ProviderUnanswered
from generation.runpod.client import MAX_RESULT_BYTES, BilledTime, ProviderUnavailable, RunPodClient
from generation.runpod.job import JobInput, JobPolicy, JobRequest, RequestedOutput

JOB = JobRequest(
    input=JobInput(
        generation_id=uuid4(),
        attempt_id=uuid4(),
        attempt_number=1,
        kind="video",
        model_id="wan-2.2-t2v",
        parameters={},
        workflow={},
        images=(),
        output=RequestedOutput(object_key="k", put_url="https://x", content_type="video/mp4", max_size_bytes=1),
        progress_url="https://x/progress",
    ),
    webhook="https://x",
    policy=JobPolicy(execution_timeout=1000, ttl=10_000),
)
BEGIN = datetime(2026, 11, 25, tzinfo=UTC)
Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer, max_answer_bytes: int = MAX_RESULT_BYTES) -> RunPodClient:
    return RunPodClient(
        httpx.MockTransport(answer),
        "https://api.example.com",
        "key",
        timeout_seconds=5.0,
        call_seconds=5.0,
        max_answer_bytes=max_answer_bytes,
    )


def raising(error: type[httpx.TransportError]) -> Answer:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error("trouble", request=request)

    return answer


async def test_a_job_is_submitted_as_the_provider_documents_it() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"id": "job-1", "status": "IN_QUEUE"})

    assert await client(answer).run("ep", JOB) == "job-1"
    assert str(seen[0].url) == "https://api.example.com/v2/ep/run"
    assert seen[0].headers["authorization"] == "Bearer key"
    assert b'"policy":{"executionTimeout":1000,"ttl":10000}' in seen[0].content


@pytest.mark.parametrize("status", [302, 308, 401, 402, 403, 404, 408, 409, 423, 429, 500, 503])
async def test_an_answer_that_means_later_is_a_refusal(status: int) -> None:
    with pytest.raises(ProviderRefused):
        await client(lambda _: httpx.Response(status)).run("ep", JOB)


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout])
async def test_what_was_never_sent_is_a_refusal(error: type[httpx.TransportError]) -> None:
    with pytest.raises(ProviderRefused):
        await client(raising(error)).run("ep", JOB)


@pytest.mark.parametrize("error", [httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError])
async def test_what_was_sent_and_not_answered_may_have_become_a_job(error: type[httpx.TransportError]) -> None:
    with pytest.raises(ProviderUnanswered):
        await client(raising(error)).run("ep", JOB)


@pytest.mark.parametrize(
    ("status", "body"),
    [(502, b""), (504, b""), (200, b"<html>"), (200, b'{"id": "\n"}'), (200, b'{"x": ' + b"[" * 100_000)],
)
async def test_an_answer_without_a_job_id_may_hide_a_job(status: int, body: bytes) -> None:
    with pytest.raises(ProviderUnanswered):
        await client(lambda _: httpx.Response(status, content=body)).run("ep", JOB)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_bad_request_is_rejected_for_good(status: int) -> None:
    with pytest.raises(ProviderRejected):
        await client(lambda _: httpx.Response(status, text="no")).run("ep", JOB)


@pytest.mark.parametrize("charset", ["utf-7", "hex", "undefined"])
async def test_a_refusal_in_any_charset_can_be_stored(charset: str) -> None:
    headers = {"content-type": f"text/html; charset={charset}"}
    with pytest.raises(ProviderRefused) as caught:
        await client(lambda _: httpx.Response(503, headers=headers, content=b"+2AA-")).run("ep", JOB)
    assert str(caught.value).encode() == b"HTTP 503: +2AA-"


async def test_the_pause_that_the_provider_asks_for_is_passed_on() -> None:
    with pytest.raises(ProviderRefused) as caught:
        await client(lambda _: httpx.Response(429, headers={"retry-after": "7"})).run("ep", JOB)
    assert caught.value.retry_after_seconds == 7


async def test_an_unknown_job_has_no_status() -> None:
    assert await client(lambda _: httpx.Response(404)).status("ep", "job") is None


async def test_a_poll_is_repeated_and_a_submission_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", pause)
    calls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path)
        return httpx.Response(429, headers={"retry-after": "2"})

    with pytest.raises(ProviderUnavailable):
        await client(answer).status("ep", "job")
    with pytest.raises(ProviderRefused):
        await client(answer).run("ep", JOB)
    assert calls == ["/v2/ep/status/job"] * 3 + ["/v2/ep/run"]
    assert pauses == [2, 2]


@pytest.mark.parametrize("status", [200, 400, 404])
async def test_a_job_that_is_over_counts_as_cancelled(status: int) -> None:
    await client(lambda _: httpx.Response(status, json={})).cancel("ep", "job")


async def test_a_cancel_without_an_answer_is_to_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    async def pause(_: float) -> None: ...

    monkeypatch.setattr(asyncio, "sleep", pause)
    with pytest.raises(ProviderUnavailable):
        await client(raising(httpx.ReadTimeout)).cancel("ep", "job")


async def test_a_result_larger_than_the_provider_allows_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def pause(_: float) -> None: ...

    async def large() -> AsyncIterator[bytes]:
        yield b"x" * 11

    monkeypatch.setattr(asyncio, "sleep", pause)
    with pytest.raises(ProviderUnavailable, match="larger than 10 bytes"):
        await client(lambda _: httpx.Response(200, content=large()), max_answer_bytes=10).status("ep", "job")


async def test_health_is_read() -> None:
    health = await client(lambda _: httpx.Response(200, json={"jobs": {"inQueue": 1}, "workers": {"idle": 2}})).health(
        "e"
    )
    assert health.workers == {"idle": 2}


@pytest.mark.parametrize(
    ("body", "workers"),
    [
        (b'{"jobs": {"inQueue": "x"}, "workers": {"idle": 2, "running": "1", "odd": null}}', {"idle": 2, "running": 1}),
        (b'{"jobs": [], "workers": {"idle": 2, "throttled": NaN}}', {"idle": 2}),
        (b'{"workers": {"idle": 2, "running": -1, "name": "\\ud800"}}', {"idle": 2}),
        (b'{"jobs": {}}', {}),
    ],
)
async def test_each_count_of_the_health_is_read_on_its_own(body: bytes, workers: dict[str, int]) -> None:
    assert (await client(lambda _: httpx.Response(200, content=body)).health("e")).workers == workers


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b"[" * 100_000])
async def test_a_health_that_is_no_object_is_unavailable(body: bytes) -> None:
    with pytest.raises(ProviderUnavailable):
        await client(lambda _: httpx.Response(200, content=body)).health("e")


async def test_a_numeric_job_id_is_a_job_id() -> None:
    assert (
        await client(lambda _: httpx.Response(200, content=b'{"id": 17, "status": "\\ud800"}')).run("ep", JOB) == "17"
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (httpx.Response(200, json={"workersMax": 0}), 0),
        (httpx.Response(200, json={"workersMax": "3"}), 3),
        (httpx.Response(200, json={}), None),
        (httpx.Response(403), None),
    ],
)
async def test_max_workers_are_told_by_the_management_api(answer: httpx.Response, expected: int | None) -> None:
    seen: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return answer

    assert await client(respond).max_workers("ep") == expected
    assert seen == ["https://rest.runpod.io/v1/endpoints/ep"]


async def test_the_bill_is_read_exactly_and_line_by_line() -> None:
    lines = (
        b'[{"endpointId": "ep", "amount": 0.1234567890123, "timeBilledMs": 5000, "time": "x"},'
        b' {"endpointId": "ep", "amount": "1.5"}, {"endpointId": null, "amount": 1},'
        b' {"endpointId": "ep", "amount": {}},'
        b' {"endpointId": "ep", "amount": NaN}]'
    )
    billed = await client(lambda _: httpx.Response(200, content=lines)).billed(BEGIN, BEGIN + timedelta(days=1))
    assert billed == [BilledTime("ep", Decimal("0.1234567890123"), 5000), BilledTime("ep", Decimal("1.5"), 0)]


async def test_every_answer_is_counted_by_its_class() -> None:
    def counted(status: str) -> float:
        labels = {"operation": "cancel", "status": status}
        return REGISTRY.get_sample_value("generation_provider_answers_total", labels) or 0

    before = {status: counted(status) for status in ("2xx", "4xx", "none")}
    await client(lambda _: httpx.Response(200)).cancel("ep", "job")
    await client(lambda _: httpx.Response(404)).cancel("ep", "job")
    assert {status: counted(status) - old for status, old in before.items()} == {"2xx": 1, "4xx": 1, "none": 0}
