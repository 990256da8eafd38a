"""Orders on a whole platform while somebody else breaks its servers: the traffic and the verdict of the campaigns."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from contracts.message import SERVICES
from local_platform.description import PlatformDescription
from local_platform.process_table import ENDPOINT_ID
from local_platform.servers.processes import last_lines
from local_platform.supervisor import Supervisor
from tests.faults.disasters import Faults
from tests.faults.generations import Customers, Fleet, grant_credits, verify
from tests.generation.worker import working

_WATCH_SECONDS: Final = 0.2


async def run_campaign(
    platform: PlatformDescription,
    faults: Faults,
    run: Callable[[], Awaitable[None]],
    seed: int,
    orders_per_second: float,
) -> int:
    """Customers order until ``run`` returns; a minute later everything must be right. Returns the exit code."""
    customers, fleet = Customers(platform, random.Random(seed + 1)), Fleet(random.Random(seed + 2))
    await grant_credits(platform, customers)
    over = asyncio.Event()
    api_key = platform.environments["generation"]["GENERATION_RUNPOD_API_KEY"]
    async with working(platform.urls["runpod"], ENDPOINT_ID, api_key) as worker:
        worker.work = fleet.work
        ordering = asyncio.create_task(customers.place_orders(orders_per_second, over))
        try:
            await run()
        finally:
            over.set()
        return await verify(platform, customers, fleet, faults, ordering)


@asynccontextmanager
async def deaths_of_services(
    supervisor: Supervisor, platform: PlatformDescription, deaths: list[str]
) -> AsyncIterator[None]:
    """Write down each service that dies, and start it again: none may, whatever becomes of the servers."""

    async def watch() -> None:
        while True:
            for name in SERVICES:
                if not supervisor.alive(name):
                    deaths.append(f"{name}:\n{last_lines(Path(platform.processes[name].log_file), 5)}")
                    await supervisor.revive(name)
            await asyncio.sleep(_WATCH_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
