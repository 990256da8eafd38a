"""The overhead of the platform per generation, at 1, 10 and 20 requests a second, and memory per process.

    python -m benchmarks.smoke [--seconds 20]

Starts a whole platform with a worker that renders nothing, orders small pictures at an even rate from twenty users, and
reads the times from the databases: from the request's transaction to the provider's answer to ``/run``, and from the
callback's receipt to the completion. The limits are our own aims; the peer is one HTTP request to the same gateway.
"""

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import psutil
import uvloop

from benchmarks.instant_worker import InstantWorker
from contracts.message import SERVICES
from local_platform.console import say, table
from local_platform.description import PlatformDescription
from local_platform.identity import sign_token
from local_platform.process_table import ENDPOINT_ID
from local_platform.supervisor import PlatformOptions, Supervisor
from tests.support.media import picture

USERS = 20
RATES = (1.0, 10.0, 20.0)
AIM_OVERHEAD_MS = 60.0
AIM_MEMORY_MB = 120.0
SIDE_PIXELS = 256
DRAIN_SECONDS = 60.0

TIMES = """
    SELECT extract(epoch FROM a.submitted_at - r.created_at) * 1000 AS submit_ms,
           extract(epoch FROM g.finished_at - c.received_at) * 1000 AS complete_ms
    FROM gateway.generation_requests r
    JOIN generation.video_generations g USING (generation_id)
    JOIN generation.attempts a USING (generation_id)
    JOIN LATERAL (
        SELECT min(received_at) AS received_at FROM generation.provider_callbacks WHERE attempt_id = a.attempt_id
    ) c ON true
    WHERE r.generation_id = ANY($1::uuid[]) AND g.status = 'completed'
"""


class Load:
    """Orders pictures for twenty users with credits."""

    def __init__(self, platform: PlatformDescription) -> None:
        self._users = [uuid4() for _ in range(USERS)]
        self._platform = platform
        self._tokens = [sign_token(platform.identity, user, "pro") for user in self._users]
        self.answered_ms: list[float] = []

    async def __aenter__(self) -> "Load":
        timeout = aiohttp.ClientTimeout(total=30)
        self._http = aiohttp.ClientSession(self._platform.urls["gateway"], timeout=timeout, raise_for_status=True)
        for user in self._users:
            command = ["grant", "--user", str(user), "--credits", "1000000", "--reason", "goodwill", "--actor", "bench"]
            await asyncio.to_thread(self._billing, command)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    def _billing(self, arguments: list[str]) -> None:
        environment = self._platform.environments["billing"]
        command = [sys.executable, "-m", "billing.main", *arguments]
        subprocess.run(command, env=environment, check=True, capture_output=True)

    async def run(self, per_second: float, seconds: float) -> list[UUID]:
        """Order at an even rate, whether or not earlier orders were answered. Returns the ids of the placed orders."""
        self.answered_ms.clear()
        began = time.monotonic()
        orders = []
        for number in range(int(per_second * seconds)):
            await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            orders.append(asyncio.create_task(self._order(number)))
        return list(await asyncio.gather(*orders))

    async def plain_request_ms(self, count: int) -> float:
        """Median of a plain request to the same gateway, in milliseconds: the least that any answer costs."""
        times = []
        for _ in range(count):
            began = time.monotonic()
            async with self._http.get("/v1/credit-packs") as answer:
                await answer.read()
            times.append((time.monotonic() - began) * 1000)
        return statistics.median(times)

    async def _order(self, number: int) -> UUID:
        parameters = {"prompt": f"picture {number}", "width": SIDE_PIXELS, "height": SIDE_PIXELS}
        began = time.monotonic()
        async with self._http.post(
            "/v1/generations",
            json={"model_id": "flux-schnell", "parameters": parameters},
            headers={
                "Authorization": f"Bearer {self._tokens[number % USERS]}",
                "Idempotency-Key": str(uuid4()),
            },
        ) as answer:
            placed = await answer.json()
        self.answered_ms.append((time.monotonic() - began) * 1000)
        return UUID(placed["id"])


async def measure(platform: PlatformDescription, load: Load, per_second: float, seconds: float) -> tuple[str, ...]:
    """One row of the table of times."""
    generations = await load.run(per_second, seconds)
    connection = await asyncpg.connect(platform.postgres.superuser_dsn)
    try:
        deadline = time.monotonic() + DRAIN_SECONDS
        while len(rows := await connection.fetch(TIMES, generations)) < len(generations):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(rows)} of {len(generations)} completed within {DRAIN_SECONDS:.0f} s")
            await asyncio.sleep(0.2)
    finally:
        await connection.close()
    submit = [float(row["submit_ms"]) for row in rows]
    complete = [float(row["complete_ms"]) for row in rows]
    return (
        f"{per_second:g}/s",
        str(len(rows)),
        *(_summary(load.answered_ms), _summary(submit), _summary(complete)),
        f"{statistics.median(submit) / AIM_OVERHEAD_MS:.2f}",
        f"{statistics.median(complete) / AIM_OVERHEAD_MS:.2f}",
    )


def _summary(times_ms: Sequence[float]) -> str:
    ordered = sorted(times_ms)
    return f"{statistics.median(ordered):.0f} / {ordered[int(len(ordered) * 0.99) - 1]:.0f}"


def cpu_seconds(platform: PlatformDescription) -> dict[str, float]:
    """Processor time each part of the platform has used so far, its child processes included."""
    return {name: _cpu_seconds(process.pid) for name, process in platform.processes.items()}


def _cpu_seconds(pid: int) -> float:
    process = psutil.Process(pid)
    total = 0.0
    for member in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def process_rows(platform: PlatformDescription, used: dict[str, float], orders: int) -> list[tuple[str, ...]]:
    """Processor time per order of every part, and the resident memory of each service's own process."""
    rows = []
    for name, process in platform.processes.items():
        resident_mb = psutil.Process(process.pid).memory_info().rss / 2**20
        memory = (f"{resident_mb:.0f} MB", f"{resident_mb / AIM_MEMORY_MB:.2f}") if name in SERVICES else ("", "")
        rows.append((name, f"{used[name] / orders * 1000:.1f} ms", *memory))
    total_ms = sum(used.values()) / orders * 1000
    return [*rows, ("together", f"{total_ms:.1f} ms", "", "")]


async def main(seconds: float) -> None:
    """Start, measure, print, stop."""
    supervisor = Supervisor(PlatformOptions(name="bench", workers=0, follow_logs=False))
    try:
        platform = await supervisor.start()
        api_key = platform.environments["generation"]["GENERATION_RUNPOD_API_KEY"]
        worker = InstantWorker(platform.urls["runpod"], ENDPOINT_ID, api_key, picture(SIDE_PIXELS, SIDE_PIXELS))
        working = asyncio.create_task(worker.run())
        async with Load(platform) as load:
            say("warming up ...")
            await measure(platform, load, 5, 3)
            plain_ms = await load.plain_request_ms(50)
            rows = []
            for per_second in RATES:
                say(f"{per_second:g} requests/s for {seconds:g} s ...")
                before = cpu_seconds(platform)
                rows.append(await measure(platform, load, per_second, seconds))
                used = {name: after - before[name] for name, after in cpu_seconds(platform).items()}
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
        heading = ("rate", "orders", "POST", "accepted -> submitted", "callback -> completed", "of aim", "of aim")
        say("\nmilliseconds, median / p99; the last two columns are medians as a part of 60 ms")
        say(table(heading, rows))
        say(f"peer: a plain GET of the same gateway takes {plain_ms:.1f} ms at the median\n")
        say(f"processor time per order at {per_second:g}/s, and memory per service")
        say(
            table(
                ("process", "processor", "memory", "of 120 MB"), process_rows(platform, used, int(per_second * seconds))
            )
        )
    finally:
        await supervisor.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="how long at each rate (default: 20)")
    uvloop.run(main(parser.parse_args().seconds))
