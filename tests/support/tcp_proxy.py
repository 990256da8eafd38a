"""A TCP proxy that can fall silent: nothing is reset or refused, and nothing comes through."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

_CHUNK_BYTES = 64 * 1024


class TcpProxy:
    """Forwards one port to ``target``, which may change. Each connection remembers whether it is silenced.

    The kernel of this host goes on to confirm what is sent into a silenced connection, as a firewall that lost its
    state or a frozen server's host would: only the silence tells.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.accepted = 0
        self.hides_ends = False
        """Whether a side learns that the other one has closed only when it sends something."""
        self.hidden_ends = 0
        self._open = asyncio.Event()
        self._open.set()
        self._connections: dict[asyncio.Task[None], asyncio.Event] = {}
        """Each with the gate that is shut when it is silenced."""
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port to connect to, once it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def through(self, dsn: str) -> str:
        """``dsn`` by way of this proxy."""
        parts = urlsplit(dsn)
        credentials = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{self.port}"))

    def silence_established(self) -> Callable[[], None]:
        """Connections that stand now carry nothing any more; new ones work.

        Returns what ends them for both sides, as keepalives do in the end. Without it, they stay.
        """
        silenced = list(self._connections)
        for gate in self._connections.values():
            gate.clear()

        def end() -> None:
            for task in silenced:
                task.cancel()

        return end

    def silence(self) -> None:
        """Nothing goes through until ``resume``; then what was sent meanwhile does."""
        self._open.clear()

    def resume(self) -> None:
        """End :meth:`silence`."""
        self._open.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gate = asyncio.Event()
        gate.set()
        task = asyncio.create_task(self._serve(reader, writer, gate))
        self._connections[task] = gate
        task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        self.accepted += 1
        try:
            await self._open.wait()
            with contextlib.suppress(OSError):
                other_reader, other_writer = await asyncio.open_connection(*self.target)
                try:
                    async with asyncio.TaskGroup() as group:
                        client_spoke, server_spoke = asyncio.Event(), asyncio.Event()
                        group.create_task(self._pump(reader, other_writer, gate, client_spoke, server_spoke))
                        group.create_task(self._pump(other_reader, writer, gate, server_spoke, client_spoke))
                finally:
                    other_writer.close()
        finally:
            writer.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gate: asyncio.Event,
        spoke: asyncio.Event,
        other_spoke: asyncio.Event,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                spoke.set()
                await self._open.wait()
                await gate.wait()
                writer.write(data)
                await writer.drain()
            await gate.wait()
            if self.hides_ends:
                self.hidden_ends += 1
                other_spoke.clear()
                await other_spoke.wait()
        writer.close()

    async def close(self) -> None:
        """Stop listening and cut everything."""
        assert self._server is not None
        self._server.close()
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def listen(self) -> None:
        """Begin to forward."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)


@asynccontextmanager
async def tcp_proxy(port: int) -> AsyncIterator[TcpProxy]:
    """A proxy in front of a port of this host."""
    proxy = TcpProxy(("127.0.0.1", port))
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.close()
