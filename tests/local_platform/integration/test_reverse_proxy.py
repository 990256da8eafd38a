"""The proxy before the replicas of a service: who gets requests, and what is seen when one is dropped."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from local_platform.reverse_proxy import ReplicaAddress, ServiceListener, serve
from local_platform.servers.ports import free_port
from tests.support import eventually
from tests.support.serving import listening_socket, serving


@dataclass
class ReplicaHarness:
    """A replica that says who it is and whether it is ready; ``/dropped`` breaks off, ``/stream`` waits in between."""

    name: str
    ready: bool = True
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> Starlette:
        async def who(request: Request) -> Response:
            return PlainTextResponse(f"{self.name} {request.method} {(await request.body()).decode()}")

        async def readyz(_: Request) -> Response:
            return Response(status_code=200 if self.ready else 503)

        async def stream(_: Request) -> Response:
            async def pieces() -> AsyncIterator[bytes]:
                yield b"first"
                await self.go_on.wait()
                yield b"second"

            return StreamingResponse(pieces())

        async def dropped(_: Request) -> Response:
            async def pieces() -> AsyncIterator[bytes]:
                yield b"half"

            return StreamingResponse(pieces(), headers={"content-length": "100"})

        routes = [Route("/readyz", readyz), Route("/stream", stream), Route("/dropped", dropped)]
        return Starlette(routes=[*routes, Route("/", who, methods=["GET", "POST"])])


@dataclass
class ProxyHarness:
    """Two replicas behind the proxy."""

    http: httpx.AsyncClient
    control: httpx.AsyncClient
    replicas: tuple[ReplicaHarness, ReplicaHarness]

    async def answering(self) -> set[str]:
        """The replicas that answer four requests in a row."""
        answers = [await self.http.get("/") for _ in range(4)]
        return {answer.text.split()[0] if answer.status_code == 200 else str(answer.status_code) for answer in answers}

    async def only(self, *names: str) -> None:
        """Wait until these, and no others, answer."""

        async def so() -> bool:
            return await self.answering() == set(names)

        await eventually(so, what=f"answers of {names}")


def _client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False)


@pytest.fixture
async def proxy() -> AsyncIterator[ProxyHarness]:
    replicas = (ReplicaHarness("one"), ReplicaHarness("two"))
    async with contextlib.AsyncExitStack() as stack:
        addresses = {}
        for replica in replicas:
            listener, url = listening_socket()
            await stack.enter_async_context(serving(replica.app(), listener))
            addresses[replica.name] = ReplicaAddress(url, f"{url}/readyz")
        port, service_port = free_port(), free_port()
        task = asyncio.create_task(serve(port, {"gateway": ServiceListener(service_port, addresses)}))
        http = await stack.enter_async_context(_client(service_port))
        control = await stack.enter_async_context(_client(port))
        harness = ProxyHarness(http, control, replicas)

        async def listens() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return await harness.answering() == {"one", "two"}
            return False

        try:
            await eventually(listens, what="both replicas")
            yield harness
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_requests_go_to_ready_replicas_in_turn(proxy: ProxyHarness) -> None:
    assert (await proxy.http.post("/", content=b"body")).text.endswith(" POST body")
    proxy.replicas[0].ready = False
    await proxy.only("two")
    proxy.replicas[1].ready = False
    await proxy.only("503")
    proxy.replicas[0].ready = True
    await proxy.only("one")


async def test_a_withdrawn_replica_gets_no_more_requests_until_it_is_admitted(proxy: ProxyHarness) -> None:
    (await proxy.control.post("/replicas/one/withdraw")).raise_for_status()
    assert await proxy.answering() == {"two"}
    (await proxy.control.post("/replicas/one/admit")).raise_for_status()
    await proxy.only("one", "two")


async def test_an_answer_that_breaks_off_is_seen_and_counted(proxy: ProxyHarness) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await proxy.http.get("/dropped")
    states = (await proxy.control.get("/replicas")).json()
    assert [len(state["failures"]) for state in states.values()].count(1) == 1


async def test_a_stream_passes_piece_by_piece(proxy: ProxyHarness) -> None:
    (await proxy.control.post("/replicas/two/withdraw")).raise_for_status()
    async with proxy.http.stream("GET", "/stream") as answer:
        pieces = answer.aiter_bytes()
        assert await anext(pieces) == b"first"
        proxy.replicas[0].go_on.set()
        assert await anext(pieces) == b"second"
