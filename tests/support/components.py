"""Running the components of a service inside a test's own process."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from service_runtime.lifecycle import Component


@asynccontextmanager
async def running(components: Iterable[Component]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run ``components`` inside the block; one that dies by itself fails the test."""
    tasks = [asyncio.create_task(component.run(), name=component.name) for component in components]
    try:
        yield tasks
    finally:
        pending = set(tasks)
        while pending:
            # More than once: asyncio.wait_for of Python 3.11 (in nats-py) can swallow a cancellation.
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=2.0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
