"""The emulator as an HTTP server."""

import contextlib
import socket
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from local_platform.runpod_emulator.admin_api import AdminApi
from local_platform.runpod_emulator.emulator import Emulator
from local_platform.runpod_emulator.public_api import PublicApi, healthz
from local_platform.runpod_emulator.rest_api import RestApi
from local_platform.runpod_emulator.worker_api import WorkerApi


class EmulatorServer(uvicorn.Server):
    """Serves one emulator: ``await server.serve(sockets=[...])``."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        super().__init__(
            uvicorn.Config(
                _app(emulator),
                http=emulator.connections.protocol_class(),
                lifespan="on",
                proxy_headers=False,
                log_level="warning",
                timeout_graceful_shutdown=5,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the open polls, then stop as usual."""
        self._emulator.closing.set()
        await super().shutdown(sockets)


def _app(emulator: Emulator) -> Starlette:
    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await emulator.webhooks.close()

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            *RestApi(emulator).routes(),
            *PublicApi(emulator).routes(),
            *WorkerApi(emulator).routes(),
            *AdminApi(emulator).routes(),
        ],
        lifespan=lifespan,
    )
