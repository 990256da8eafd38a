"""Resets connections: the client sees a reset instead of an answer."""

import asyncio
import socket
import struct
from typing import Any, Final

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of zero: closing sends RST instead of FIN."""


class OpenConnections:
    """The transport of each client's address."""

    def __init__(self) -> None:
        self._transports: dict[tuple[str, int], asyncio.Transport] = {}

    def protocol_class(self) -> type[asyncio.Protocol]:
        """Uvicorn's HTTP protocol, with a record of each connection."""
        transports = self._transports

        class ObservedProtocol(HttpToolsProtocol):
            def connection_made(self, transport: Any) -> None:
                transports[transport.get_extra_info("peername")[:2]] = transport
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                transports.pop(self.transport.get_extra_info("peername")[:2], None)
                super().connection_lost(exc)

        return ObservedProtocol

    def reset(self, client: tuple[str, int]) -> None:
        """Send RST to ``client``."""
        transport = self._transports[client]
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        transport.abort()


class ResetInsteadOfAnswer:
    """An ASGI response that resets the connection instead."""

    def __init__(self, connections: OpenConnections) -> None:
        self._connections = connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reset, and return once the server knows that the client is gone."""
        host, port = scope["client"]
        self._connections.reset((host, port))
        while (await receive())["type"] != "http.disconnect":
            pass
