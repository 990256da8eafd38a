"""Holding a request open until something happens, time is up, the client leaves or the server stops."""

import asyncio

from starlette.requests import Request

from local_platform.runpod_emulator.emulator import Emulator


async def wait_for(emulator: Emulator, request: Request, event: asyncio.Event, seconds: float) -> bool:
    """Whether the client is still there to be answered. A worker that hung up must not be given a job."""
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
