"""Serving an ASGI application from a test: over real sockets, in the test's own event loop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import uvicorn

from tests.support.waiting import eventually


def listening_socket() -> tuple[socket.socket, str]:
    """A bound socket on a free port and its URL: the port is ours before anyone needs to know it."""
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.asynccontextmanager
async def serving(app: Any, listener: socket.socket, trusted_proxies: Sequence[str] = ()) -> AsyncIterator[None]:
    """Serve ``app`` on ``listener`` for as long as the block runs."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        lifespan="on",
        timeout_graceful_shutdown=2,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await eventually(lambda: server.started or task.done(), what="the server's start")
        yield
    finally:
        server.should_exit = True
        await task
