"""Keeps a request open until an event, the end of its time, a disconnect of the client or the server's stop."""

import asyncio

from starlette.requests import Request

from local_platform.runpod_emulator.emulator import Emulator


async def wait_for(emulator: Emulator, request: Request, event: asyncio.Event, seconds: float) -> bool:
    """Wait. Returns whether the client is still connected: a worker that disconnected must not get a job."""
    waits = {
        asyncio.create_task(event.wait()),
        asyncio.create_task(emulator.closing.wait()),
        gone := asyncio.create_task(_disconnected(request)),
    }
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return not gone.done()
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
