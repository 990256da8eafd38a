"""A proxy before the object store that loses responses: the store did the write, and the client never learns it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit


class LossyProxy:
    """Forwards everything except the next ``losses`` responses to writes: it closes the connection instead."""

    def __init__(self, target_url: str) -> None:
        target = urlsplit(target_url)
        self._target = (target.hostname, target.port)
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.losses = 0
        self.lost = 0

    @property
    def url(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["LossyProxy"]:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield self
        finally:
            self._server.close()
            # Not cancelled: the task of a closed connection ends by itself.
            for writer in self._connections.values():
                writer.close()
            await asyncio.gather(*self._connections)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            try:
                await self._forward(reader, writer, far_reader, far_writer)
            finally:
                await _closed(far_writer)
        finally:
            await _closed(writer)
            del self._connections[task]

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        writing = False

        async def requests() -> None:
            nonlocal writing
            while data := await reader.read(65536):
                if data.startswith((b"PUT ", b"GET ", b"HEAD ")):
                    writing = data.startswith(b"PUT ")
                far_writer.write(data)

        async def responses() -> None:
            while data := await far_reader.read(65536):
                if writing and self.losses and not data.startswith(b"HTTP/1.1 100"):
                    self.losses -= 1
                    self.lost += 1
                    return
                writer.write(data)

        sides = [asyncio.create_task(requests()), asyncio.create_task(responses())]
        try:
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    # The other side may have closed it first.
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
