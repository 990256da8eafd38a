"""Wait until no worker of an endpoint runs an older release."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from gpu_endpoint.deploy.rest import RunPodRest, Worker

_POLL_SECONDS: Final = 5.0


async def watch(
    rest: RunPodRest, endpoint_id: str, *, wait_seconds: float, say: Callable[[str], None]
) -> tuple[Worker, ...]:
    """The workers, as soon as none is stale, or as they are after ``wait_seconds``. Says every change."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_seconds
    said = ""
    while True:
        workers = await rest.workers(endpoint_id)
        line = summary(workers)
        if line != said:
            say(line)
            said = line
        left = deadline - loop.time()
        if left <= 0 or not any(worker.is_stale for worker in workers):
            return workers
        await asyncio.sleep(min(_POLL_SECONDS, left))


def summary(workers: tuple[Worker, ...]) -> str:
    """For a terminal: ``2 workers: 1 IDLE, 1 RUNNING; 1 stale``."""
    states = Counter(worker.status for worker in workers)
    stale = sum(worker.is_stale for worker in workers)
    shown = ", ".join(f"{count} {status}" for status, count in sorted(states.items())) or "none"
    return f"{len(workers)} workers: {shown}; {stale} stale"
