"""A provider that answers each request with exactly the bytes, and at exactly the time, that a test says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from generation.runpod.client import RunPodClient
from generation.runpod.transport import AiohttpTransport

Respond = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""Write the answer to one request."""


def responds(body: bytes, *headers: str, status: str = "200 OK") -> Respond:
    """Answer at once."""
    head = "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers])

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode() + b"\r\n\r\n" + body)

    return answer


def responds_after(event: asyncio.Event, body: bytes) -> Respond:
    """Answer when ``event`` is set."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        await event.wait()
        await responds(body)(writer)

    return answer


async def trickles(writer: asyncio.StreamWriter) -> None:
    """Answer without end: no pause between two bytes is longer than 0.05 s."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


class Provider:
    """Answers by path; ``calls`` are the paths requested, in order."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: dict[str, Respond] = {}
        self.calls: list[str] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, which is one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            path = head.split(" ")[1]
            length = head.partition("content-length: ")[2].partition("\r\n")[0]
            await reader.readexactly(int(length or 0))
            self.calls.append(path)
            await self.answers[path](writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def answering(
    call_seconds: float = 30.0, timeout_seconds: float = 30.0
) -> AsyncIterator[tuple[Provider, RunPodClient]]:
    """A provider that runs inside the block, and a client that waits ``call_seconds`` for a complete answer."""
    provider, open_connections = Provider(), set[asyncio.Task[None]]()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(provider.handle(reader, writer))
        open_connections.add(task)
        task.add_done_callback(open_connections.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport = AiohttpTransport(connections=100)
    try:
        provider.url = base = f"http://127.0.0.1:{port}"
        yield (
            provider,
            RunPodClient(
                transport, base, "key", timeout_seconds=timeout_seconds, call_seconds=call_seconds, rest_base=base
            ),
        )
    finally:
        await transport.aclose()
        server.close()
        for task in open_connections:
            task.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)
