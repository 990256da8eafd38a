"""One HTTP listener inside a running event loop."""

import asyncio
import contextlib
import math
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import uvicorn

from service_runtime.http_protocol import BoundedHttpProtocol

_BACKLOG: Final = 2048
_POLL_SECONDS: Final = 0.01
DATE_SECONDS: Final = 1.0
"""How often the ``Date`` of the answers is written anew."""
_KEEP_ALIVE_SECONDS: Final = 75
"""Longer than what load balancers keep idle connections for, so that they are the ones to close them."""


class ListenerFailed(Exception):
    """A listener could not start, or ended without being asked to."""


@dataclass(frozen=True)
class HttpServer:
    """An ASGI application and where it listens. Port 0 is a free port, said in the log.

    A connection that does not bring a whole request within ``request_seconds`` is cut off; a request for one of the
    ``slow_paths`` may take as many seconds as stand there, from the end of its head. Of ``trusted_proxies`` (addresses
    or networks), and of nobody else, ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed.
    """

    app: Any
    host: str
    port: int
    request_seconds: float = 60.0
    slow_paths: Mapping[str, float] = field(default_factory=dict)
    trusted_proxies: tuple[str, ...] = ()


class _Server(uvicorn.Server):
    """uvicorn's server, without its signal handlers: the process has one place for signals.

    uvicorn's own loop looks ten times a second whether it is to end. This one is told.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._told_to_end = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def end(self) -> None:
        """Take no new connection, drain and return."""
        self.should_exit = True
        self._told_to_end.set()

    async def main_loop(self) -> None:
        """Keep the ``Date`` until told to end. The first of uvicorn's ticks is the one that writes it."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DATE_SECONDS):
                    await self._told_to_end.wait()


class Listener:
    """Starts, drains and stops one ``HttpServer``."""

    def __init__(self, server: HttpServer, drain_seconds: float) -> None:
        self.name = f"http {server.host}:{server.port}"
        self._socket = _bind(server)
        config = uvicorn.Config(
            server.app,
            http=partial(  # type: ignore[arg-type]
                BoundedHttpProtocol, request_seconds=server.request_seconds, slow_paths=server.slow_paths
            ),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(server.trusted_proxies),
            forwarded_allow_ips=list(server.trusted_proxies),
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, math.floor(drain_seconds)),
        )
        self._server = _Server(config)
        self.task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Host and port that are really listened on."""
        host, port = self._socket.getsockname()[:2]
        return f"{host}:{port}"

    async def start(self) -> None:
        """Return when requests are taken. Raises ListenerFailed with what the application said at its start."""
        self.task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name=self.name)
        while not self._server.started:
            if self.task.done():
                cause = self.task.exception()
                raise ListenerFailed(f"{self.name} did not start; see the log above") from cause
            await asyncio.sleep(_POLL_SECONDS)

    async def stop(self) -> None:
        """Take no new connection, let running requests end within the drain time, cancel the others."""
        if self.task is None:
            self._socket.close()
            return
        self._server.end()
        await asyncio.wait([self.task])


def _bind(server: HttpServer) -> socket.socket:
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((server.host, server.port))
    except OSError as error:
        listening.close()
        raise ListenerFailed(f"cannot listen on {server.host}:{server.port}: {error.strerror}") from error
    listening.setblocking(False)
    return listening
