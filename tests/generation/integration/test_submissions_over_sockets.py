"""What a submission proves when the network or the provider fails, over real connections.

An order whose request may have arrived must not be sent again at once; one whose request never left may be.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import pytest

from generation.runpod.answers import ProviderRefused, ProviderUnanswered
from generation.runpod.client import RunPodClient
from generation.runpod.job import JobPolicy, JobRequest, StockInput
from generation.runpod.transport import AiohttpTransport
from local_platform.servers.ports import free_port
from tests.generation.provider import answering, responds, responds_after
from tests.support.waiting import eventually

JOB = JobRequest(
    input=StockInput(workflow={}, images=()), webhook="https://x", policy=JobPolicy(execution_timeout=1000, ttl=10_000)
)
RUN = "/v2/ep/run"


async def hangs_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def resets(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def says_nothing(_: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def breaks_off(writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"id": "job"')


async def talks_nonsense(writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example.com ESMTP\r\n\r\n")


async def breaks_off_in_the_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-le")


MAY_HAVE_ARRIVED: dict[str, Callable[[asyncio.StreamWriter], Awaitable[None]]] = {
    "hangs up": hangs_up,
    "resets": resets,
    "says nothing": says_nothing,
    "breaks off": breaks_off,
    "breaks off in the head": breaks_off_in_the_head,
    "talks nonsense": talks_nonsense,
    "encodes": responds(b"", "content-encoding: gzip"),
}


@pytest.mark.parametrize("trouble", MAY_HAVE_ARRIVED)
async def test_a_request_that_arrived_may_have_made_a_job_and_is_sent_once(trouble: str) -> None:
    async with answering(timeout_seconds=0.5) as (provider, client):
        provider.answers[RUN] = MAY_HAVE_ARRIVED[trouble]
        with pytest.raises(ProviderUnanswered):
            await client.run("ep", JOB)
        assert provider.calls == [RUN]


@pytest.mark.parametrize("base", ["http://127.0.0.1:{port}", "http://nowhere.invalid"])
async def test_a_provider_that_cannot_be_reached_has_no_job(base: str) -> None:
    async with AiohttpTransport(connections=2) as transport:
        where = base.format(port=free_port())
        with pytest.raises(ProviderRefused):
            await RunPodClient(transport, where, "key", timeout_seconds=5, call_seconds=5).run("ep", JOB)


async def test_a_provider_that_does_not_end_the_handshake_has_no_job() -> None:
    async with answering() as (provider, _), AiohttpTransport(connections=2) as transport:
        where = provider.url.replace("http:", "https:")
        with pytest.raises(ProviderRefused):
            await RunPodClient(transport, where, "key", timeout_seconds=0.5, call_seconds=5).run("ep", JOB)
        assert provider.calls == []


async def test_a_request_that_waited_for_a_connection_in_vain_was_not_sent() -> None:
    async with answering() as (provider, _), AiohttpTransport(connections=1) as transport:
        patient, hasty = (
            RunPodClient(transport, provider.url, "key", timeout_seconds=seconds, call_seconds=30)
            for seconds in (30, 0.2)
        )
        answered = asyncio.Event()
        provider.answers[RUN] = responds_after(answered, b'{"id": "job"}')
        first = asyncio.create_task(patient.run("ep", JOB))
        await eventually(lambda: provider.calls == [RUN])
        with pytest.raises(ProviderRefused):
            await hasty.run("ep", JOB)
        answered.set()
        assert await first == "job"
        assert provider.calls == [RUN]


async def test_an_answer_that_redirects_is_not_followed() -> None:
    async with answering() as (provider, client):
        provider.answers[RUN] = responds(b"", "location: /v2/other/run", status="307 Temporary Redirect")
        with pytest.raises(ProviderRefused):
            await client.run("ep", JOB)
        assert provider.calls == [RUN]


async def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering() as (provider, _), AiohttpTransport(connections=2) as transport:
        monkeypatch.setenv("http_proxy", provider.url)
        wanted = f"http://{uuid4()}.example{RUN}"
        provider.answers[wanted] = responds(b'{"id": "job"}')
        client = RunPodClient(transport, wanted.removesuffix(RUN), "key", timeout_seconds=5, call_seconds=5)
        assert await client.run("ep", JOB) == "job"
        assert provider.calls == [wanted]


@pytest.fixture
async def connections() -> AsyncIterator[tuple[str, list[int]]]:
    """A provider that keeps its connections open: its address, and how many requests came over each of them."""
    requests: list[int] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(0)
        number = len(requests) - 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
                requests[number] += 1
                writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{"id": "job"}')
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests
    server.close()


async def test_one_connection_carries_one_request_after_another(connections: tuple[str, list[int]]) -> None:
    base, requests = connections
    async with AiohttpTransport(connections=2) as transport:
        client = RunPodClient(transport, base, "key", timeout_seconds=5, call_seconds=5)
        assert [await client.run("ep", JOB) for _ in range(3)] == ["job"] * 3
    assert requests == [3]
