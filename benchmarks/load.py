"""Open-loop traffic on a whole platform: at a rate that fits, at three times that, and at the first rate again.

    python -m benchmarks.load [--rate 5] [--minutes 2] [--overload 3]

Orders arrive at an even rate, whether or not earlier ones were answered, from users who stay within their allowance at
the first rate. The emulated RunPod keeps its documented limits; its GPUs can do a fifth more than the first rate. Under
the overload the platform may answer 429 (a user's allowance is used up) or accept and queue (201, 202), and nothing
else. Afterwards every accepted order must end, and the auditor must find nothing. Exit code 0 only then.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from math import ceil
from typing import Final
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import psutil
import uvloop

from benchmarks.instant_worker import InstantWorker
from benchmarks.smoke import cpu_seconds
from contracts.message import SERVICES
from local_platform.console import say, table
from local_platform.description import PlatformDescription
from local_platform.identity import sign_token
from local_platform.process_table import ENDPOINT_ID
from local_platform.supervisor import PlatformOptions, Supervisor
from tests.faults.books import check_books
from tests.faults.granting import grant_to_each
from tests.support.media import picture

SIDE_PIXELS: Final = 256
CREDITS: Final = 1_000_000
WRITES_PER_MINUTE: Final = 120
"""The gateway's default allowance of one user."""
ALLOWANCE_USED: Final = 0.9
"""The part of it that users take at the first rate."""
RENDER_SECONDS: Final = 1.0
GPU_RESERVE: Final = 1.2
ANSWER_SECONDS: Final = 30.0
HEAL_SECONDS: Final = 180.0
EXPECTED: Final = frozenset({HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED, HTTPStatus.TOO_MANY_REQUESTS})
"""200 is a repeated request whose order stands."""

QUEUE: Final = """
    SELECT count(*) FROM gateway.generations WHERE status NOT IN ('completed', 'failed', 'cancelled', 'refused')
"""
ENDED: Final = """
    SELECT g.generation_id, g.status, extract(epoch FROM v.finished_at - r.created_at) AS seconds
    FROM gateway.generation_requests AS r
    JOIN gateway.generations AS g USING (generation_id)
    LEFT JOIN generation.video_generations AS v USING (generation_id)
    WHERE r.generation_id = ANY($1::uuid[])
"""


@dataclass
class Phase:
    """What one rate did."""

    name: str
    per_second: float
    answers: Counter[str] = field(default_factory=Counter)
    answered_seconds: list[float] = field(default_factory=list)
    accepted: list[UUID] = field(default_factory=list)
    unanswered: list[tuple[int, str]] = field(default_factory=list)
    """Users and keys whose request failed on the way: whether it counts is unknown until it is repeated."""
    longest_queue: int = 0
    busy: list[float] = field(default_factory=list)
    cores: float = 0.0
    drained_seconds: float = 0.0


class Traffic:
    """Users with credits who order small pictures."""

    def __init__(self, platform: PlatformDescription, http: aiohttp.ClientSession, rate: float) -> None:
        self._users = [uuid4() for _ in range(ceil(rate * 60 / (WRITES_PER_MINUTE * ALLOWANCE_USED)))]
        self._tokens = [sign_token(platform.identity, user, "pro") for user in self._users]
        self._platform = platform
        self._http = http

    async def grant(self) -> None:
        """Give everybody credits."""
        await grant_to_each(self._platform, self._users, CREDITS, actor="load")

    async def run(self, phase: Phase, seconds: float) -> None:
        """Order at the phase's rate, then wait for the answers."""
        began = time.monotonic()
        orders = []
        for number in range(int(phase.per_second * seconds)):
            await asyncio.sleep(max(0.0, began + number / phase.per_second - time.monotonic()))
            orders.append(asyncio.create_task(self._order(phase, number % len(self._users), str(uuid4()))))
        await asyncio.gather(*orders)

    async def repeat(self, phase: Phase) -> None:
        """Ask again, under the same key, for what was not answered: then the outcome is known."""
        repeated, phase.unanswered = phase.unanswered, []
        for user, key in repeated:
            await self._order(phase, user, key)

    async def _order(self, phase: Phase, user: int, key: str) -> None:
        parameters = {"prompt": f"picture of {key}", "width": SIDE_PIXELS, "height": SIDE_PIXELS}
        headers = {"Authorization": f"Bearer {self._tokens[user]}", "Idempotency-Key": key}
        began = time.monotonic()
        try:
            async with self._http.post(
                "/v1/generations", json={"model_id": "flux-schnell", "parameters": parameters}, headers=headers
            ) as answer:
                body = await answer.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            phase.answers[type(error).__name__] += 1
            phase.unanswered.append((user, key))
            return
        phase.answered_seconds.append(time.monotonic() - began)
        phase.answers[str(answer.status) if answer.ok else f"{answer.status} {body['code']}"] += 1
        if answer.ok:
            phase.accepted.append(UUID(body["id"]))
        elif answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            phase.unanswered.append((user, key))


class Observer:
    """Looks at the platform once a second."""

    def __init__(self, platform: PlatformDescription, connection: asyncpg.Connection, worker: InstantWorker) -> None:
        self._platform = platform
        self._connection = connection
        self._worker = worker
        self.memory_mb: dict[str, float] = {}

    @asynccontextmanager
    async def observing(self, phase: Phase) -> AsyncIterator[None]:
        """Fill in what ``phase`` says of the platform."""
        began, before = time.monotonic(), sum(cpu_seconds(self._platform).values())
        looking = asyncio.create_task(self._look(phase))
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait({looking})
        phase.cores = (sum(cpu_seconds(self._platform).values()) - before) / (time.monotonic() - began)

    async def queue(self) -> int:
        """Accepted orders that have not ended."""
        return int(await self._connection.fetchval(QUEUE))

    async def drain(self) -> float:
        """Wait until every order has ended; returns how long it took. Raises TimeoutError after ``HEAL_SECONDS``."""
        began = time.monotonic()
        while await self.queue():
            if time.monotonic() - began > HEAL_SECONDS:
                raise TimeoutError(f"{await self.queue()} orders did not end within {HEAL_SECONDS:.0f} s")
            await asyncio.sleep(0.5)
        return time.monotonic() - began

    async def _look(self, phase: Phase) -> None:
        while True:
            phase.longest_queue = max(phase.longest_queue, await self.queue())
            phase.busy.append(self._worker.busy)
            for name, process in self._platform.processes.items():
                resident = psutil.Process(process.pid).memory_info().rss / 2**20
                self.memory_mb[name] = max(resident, self.memory_mb.get(name, 0.0))
            await asyncio.sleep(1.0)


def percentiles(seconds: Sequence[float], unit: float) -> str:
    """Median, 95th and 99th percentile, as multiples of ``unit`` seconds."""
    if not seconds:
        return "-"
    ordered = sorted(seconds)
    chosen = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] / unit for share in (0.5, 0.95, 0.99))
    return " / ".join(f"{value:.0f}" if value >= 10 else f"{value:.1f}" for value in chosen)


async def measure(platform: PlatformDescription, rate: float, minutes: float, overload: float) -> int:
    """Run the three phases and print what was seen. Returns the exit code."""
    slots = ceil(rate * GPU_RESERVE * RENDER_SECONDS)
    api_key = platform.environments["generation"]["GENERATION_RUNPOD_API_KEY"]
    worker = InstantWorker(
        platform.urls["runpod"], ENDPOINT_ID, api_key, picture(SIDE_PIXELS, SIDE_PIXELS), slots, lambda: RENDER_SECONDS
    )
    working = asyncio.create_task(worker.run())
    connection = await asyncpg.connect(platform.postgres.superuser_dsn)
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    phases = [
        Phase("fits", rate),
        Phase(f"{overload:g} x", rate * overload),
        Phase("fits again", rate),
    ]
    errors: list[str] = []
    try:
        async with aiohttp.ClientSession(platform.urls["gateway"], timeout=timeout, connector=connector) as http:
            traffic, observer = Traffic(platform, http, rate), Observer(platform, connection, worker)
            await traffic.grant()
            for phase in phases:
                say(f"{phase.name}: {phase.per_second:g} orders/s for {minutes * 60:.0f} s ...")
                async with observer.observing(phase):
                    await traffic.run(phase, minutes * 60)
                phase.drained_seconds = await observer.drain()
                await traffic.repeat(phase)
                await observer.drain()
            rows = [await _row(connection, phase, slots, errors) for phase in phases]
    finally:
        working.cancel()
        await asyncio.wait({working})
        await connection.close()
    heading = ("rate", "answers", "answer ms", "delivered s", "queue", "GPUs busy", "cores", "drained s")
    say(table(heading, rows))
    say(f"percentiles are 50 / 95 / 99; {slots} GPUs that take {RENDER_SECONDS:g} s for a picture")
    memory = [(name, f"{observer.memory_mb[name]:.0f} MB") for name in platform.processes if name in SERVICES]
    say(table(("process", "memory, highest"), memory))
    for error in errors:
        say(error)
    return max(await check_books(platform), 1 if errors else 0)


async def _row(connection: asyncpg.Connection, phase: Phase, slots: int, errors: list[str]) -> tuple[str, ...]:
    rows = await connection.fetch(ENDED, phase.accepted)
    outcomes = Counter(row["status"] for row in rows)
    if lost := len(set(phase.accepted)) - len(rows):
        errors.append(f"{phase.name}: {lost} accepted orders do not exist")
    if outcomes.keys() - {"completed"}:
        errors.append(f"{phase.name}: not every order was delivered: {dict(outcomes)}")
    if phase.unanswered:
        errors.append(f"{phase.name}: {len(phase.unanswered)} requests were not answered when they were repeated")
    unexpected = [code for code in phase.answers if not code[:3].isdigit() or HTTPStatus(int(code[:3])) not in EXPECTED]
    if unexpected:
        errors.append(f"{phase.name}: other answers than 201, 202 and 429: {', '.join(unexpected)}")
    return (
        f"{phase.name}, {phase.per_second:g}/s",
        ", ".join(f"{count} {code}" for code, count in sorted(phase.answers.items())),
        percentiles(phase.answered_seconds, 0.001),
        percentiles([float(row["seconds"]) for row in rows if row["seconds"] is not None], 1.0),
        str(phase.longest_queue),
        f"{sum(phase.busy) / max(1, len(phase.busy)) / slots:.0%}",
        f"{phase.cores:.2f}",
        f"{phase.drained_seconds:.0f}",
    )


async def main(rate: float, minutes: float, overload: float) -> int:
    """Start, measure, print, stop."""
    supervisor = Supervisor(PlatformOptions(name="load", workers=0, follow_logs=False))
    watching: asyncio.Task[None] | None = None
    try:
        platform = await supervisor.start()
        watching = asyncio.create_task(supervisor.watch())
        return await measure(platform, rate, minutes, overload)
    finally:
        if watching is not None:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        await supervisor.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=5.0, help="orders a second that fit (default: 5)")
    parser.add_argument("--minutes", type=float, default=2.0, help="of each of the three phases (default: 2)")
    parser.add_argument("--overload", type=float, default=3.0, help="times the rate (default: 3)")
    options = parser.parse_args()
    sys.exit(uvloop.run(main(options.rate, options.minutes, options.overload)))
