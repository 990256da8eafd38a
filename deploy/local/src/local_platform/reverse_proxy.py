"""What Kubernetes puts before the replicas of a service: requests go to replicas that are ready, in turn.

    python -m local_platform.reverse_proxy --port N --services '{"gateway": {"port": N, "replicas": {...}}}'

A replica gets requests from when its readiness probe succeeds until the probe fails, or until it is withdrawn.
Kubernetes withdraws a pod when it begins to end it, which is before the pod gets its SIGTERM. Nothing is sent a second
time: a request that a replica drops is answered with 502 and counted.

The port of the proxy itself takes ``POST /replicas/{name}/withdraw``, ``POST /replicas/{name}/admit`` (what comes back
under that name is a new pod, which waits for its probe) and ``GET /replicas``.
"""

import argparse
import asyncio
import contextlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import aiohttp
import msgspec
import uvloop
from aiohttp import web

PROBE_SECONDS: Final = 0.25
_PROBE_TIMEOUT: Final = aiohttp.ClientTimeout(total=3.0)
_CONNECT_SECONDS: Final = 2.0
_LARGEST_BODY_BYTES: Final = 64 * 1024**2
_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})


class ReplicaAddress(msgspec.Struct, frozen=True):
    """Where a replica takes requests, and where it says whether it wants any."""

    url: str
    ready_url: str


class ServiceListener(msgspec.Struct, frozen=True):
    """The port of a service, and its replicas by name."""

    port: int
    replicas: dict[str, ReplicaAddress]


class ReplicaState(msgspec.Struct, kw_only=True):
    """One replica as the proxy sees it. ``failures`` names each request that the replica dropped or never took."""

    ready: bool = False
    withdrawn: bool = False
    requests: int = 0
    failures: list[str] = msgspec.field(default_factory=list)


class _Replica:
    def __init__(self, address: ReplicaAddress, http: aiohttp.ClientSession) -> None:
        self.state = ReplicaState()
        self._address = address
        self._http = http

    @property
    def available(self) -> bool:
        return self.state.ready and not self.state.withdrawn

    async def probe(self) -> None:
        """Ask for readiness until cancelled."""
        while True:
            try:
                async with self._http.get(self._address.ready_url, timeout=_PROBE_TIMEOUT) as answer:
                    self.state.ready = answer.status == HTTPStatus.OK
            except (aiohttp.ClientError, TimeoutError):
                self.state.ready = False
            await asyncio.sleep(PROBE_SECONDS)

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Answer as the replica does, piece by piece; with 502 if it drops the request."""
        body = await request.read()
        self.state.requests += 1
        answer = web.StreamResponse()
        try:
            async with self._http.request(
                *(request.method, f"{self._address.url}{request.raw_path}"),
                headers=[(name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP],
                data=body or None,
                allow_redirects=False,
            ) as received:
                answer.set_status(received.status, received.reason)
                answer.headers.extend(
                    (name, value) for name, value in received.headers.items() if name.lower() not in _HOP_BY_HOP
                )
                await answer.prepare(request)
                while chunk := await received.content.readany():
                    await answer.write(chunk)
                await answer.write_eof()
        except (aiohttp.ClientError, TimeoutError) as error:
            if request.transport is None or request.transport.is_closing():
                return answer  # It was the caller who went away.
            self.state.failures.append(f"{request.method} {request.path}: {type(error).__name__}: {error}")
            if not answer.prepared:
                return web.Response(status=HTTPStatus.BAD_GATEWAY, text="the replica dropped the request")
            request.transport.close()  # Half an answer is out, and the caller must see that it broke.
        return answer


class _Balancer:
    """The replicas of one service."""

    def __init__(self, replicas: list[_Replica]) -> None:
        self._replicas = replicas
        self._turn = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.Request)
        available = [replica for replica in self._replicas if replica.available]
        if not available:
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text="no replica is ready")
        self._turn += 1
        return await available[self._turn % len(available)].forward(request)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=_LARGEST_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self.handle)
        return app


def _control(replicas: Mapping[str, _Replica]) -> web.Application:
    async def states(_: web.Request) -> web.Response:
        body = msgspec.json.encode({name: replica.state for name, replica in replicas.items()})
        return web.Response(body=body, content_type="application/json")

    async def withdraw(request: web.Request) -> web.Response:
        replicas[request.match_info["name"]].state.withdrawn = True
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def admit(request: web.Request) -> web.Response:
        state = replicas[request.match_info["name"]].state
        state.ready, state.withdrawn = False, False
        return web.Response(status=HTTPStatus.NO_CONTENT)

    app = web.Application()
    app.router.add_get("/replicas", states)
    app.router.add_post("/replicas/{name}/withdraw", withdraw)
    app.router.add_post("/replicas/{name}/admit", admit)
    return app


async def serve(port: int, services: Mapping[str, ServiceListener]) -> None:
    """Listen until cancelled."""
    async with contextlib.AsyncExitStack() as stack:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
        connector = aiohttp.TCPConnector(limit=0)
        http = aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False)
        await stack.enter_async_context(http)
        replicas: dict[str, _Replica] = {}
        apps: list[tuple[web.Application, int]] = []
        for listener in services.values():
            own = {name: _Replica(address, http) for name, address in listener.replicas.items()}
            replicas.update(own)
            apps.append((_Balancer(list(own.values())).app(), listener.port))
        for app, number in (*apps, (_control(replicas), port)):
            # When a caller goes away, the replica must see that, too: a stream is given up.
            runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", number).start()
        await asyncio.gather(*(replica.probe() for replica in replicas.values()))


def main() -> None:
    """Parse the arguments and serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m local_platform.reverse_proxy", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="of the proxy itself")
    parser.add_argument("--services", required=True, help="JSON: each service's listener with its replicas")
    arguments = parser.parse_args()
    services = msgspec.json.decode(arguments.services, type=dict[str, ServiceListener])
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(arguments.port, services))


if __name__ == "__main__":
    main()
