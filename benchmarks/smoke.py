"""The overhead of the platform per generation, at 1, 10 and 20 requests a second, and memory per process.

    python -m benchmarks.smoke [--seconds 20] [--overload 80]

Starts a whole platform with a worker that renders nothing, orders small pictures at an even rate from many users, and
reads the times from the databases: from the request's transaction to the provider's answer to ``/run``, and from the
callback's receipt to the completion. The limits are our own aims; the peer is one HTTP request to the same gateway.
Last comes an overload: what the gateway answers, after how long, and that all it accepted is delivered.
"""

import argparse
import asyncio
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import psutil
import uvloop

from benchmarks.instant_worker import SIDE_PIXELS, instant_worker
from contracts.message import SERVICES
from local_platform.console import say, table
from local_platform.description import IdentityDescription, PlatformDescription
from local_platform.identity import sign_token
from local_platform.supervisor import PlatformOptions, Supervisor
from tests.faults.granting import grant_to_each
from tests.observability.scraping import scrape

USERS = 60
"""So many that none of them uses up what a user may write in a minute, not even in the overload."""
CREDITS = 1_000_000
RATES = (1.0, 10.0, 20.0)
AIM_OVERHEAD_MS = 60.0
AIM_MEMORY_MB = 120.0
AIM_OVERLOADED_MS = 1000.0
"""The 99th percentile of all answers, those that refuse included."""
EXPECTED = frozenset({"201", "202", "429 rate_limited"})
"""Answers to orders, in an overload."""
DRAIN_SECONDS = 60.0
OVERLOAD_DRAIN_SECONDS = 180.0
ANSWER_SECONDS = 30.0

TIMES = """
    SELECT extract(epoch FROM a.submitted_at - r.created_at) * 1000 AS submit_ms,
           extract(epoch FROM g.finished_at - c.received_at) * 1000 AS complete_ms,
           extract(epoch FROM g.finished_at - r.created_at) * 1000 AS total_ms
    FROM gateway.generation_requests r
    JOIN generation.video_generations g USING (generation_id)
    JOIN generation.attempts a USING (generation_id)
    JOIN LATERAL (
        SELECT min(received_at) AS received_at FROM generation.provider_callbacks WHERE attempt_id = a.attempt_id
    ) c ON true
    WHERE r.generation_id = ANY($1::uuid[]) AND g.status = 'completed'
"""


class Load:
    """Orders pictures at an API for many users, to whom the caller has given credits."""

    def __init__(self, url: str, identity: IdentityDescription, users: Sequence[UUID]) -> None:
        self._url = url
        self._tokens = [sign_token(identity, user, "pro") for user in users]
        self._ordered = 0
        self.answered_ms: list[float] = []
        """Of the orders that were placed."""
        self.refused_ms: list[float] = []
        self.answers: Counter[str] = Counter()
        """Answers by status, those that refuse with their code."""

    async def __aenter__(self) -> "Load":
        timeout, connector = aiohttp.ClientTimeout(total=ANSWER_SECONDS), aiohttp.TCPConnector(limit=0)
        self._http = aiohttp.ClientSession(self._url, timeout=timeout, connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def run(self, per_second: float, seconds: float) -> list[UUID]:
        """Order at an even rate, whether or not earlier orders were answered. Returns the ids of the placed orders."""
        self.answered_ms.clear()
        self.refused_ms.clear()
        self.answers.clear()
        began = time.monotonic()
        orders = []
        for number in range(int(per_second * seconds)):
            await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            orders.append(asyncio.create_task(self._order()))
        return [placed for placed in await asyncio.gather(*orders) if placed is not None]

    async def plain_request_ms(self, count: int) -> float:
        """Median of a plain request to the same gateway, in milliseconds: the least that any answer costs."""
        times = []
        for _ in range(count):
            began = time.monotonic()
            async with self._http.get("/v1/credit-packs", raise_for_status=True) as answer:
                await answer.read()
            times.append((time.monotonic() - began) * 1000)
        return statistics.median(times)

    async def _order(self) -> UUID | None:
        self._ordered += 1
        parameters = {"prompt": f"picture {self._ordered}", "width": SIDE_PIXELS, "height": SIDE_PIXELS}
        began = time.monotonic()
        async with self._http.post(
            "/v1/generations",
            json={"model_id": "flux-schnell", "parameters": parameters},
            headers={
                "Authorization": f"Bearer {self._tokens[self._ordered % len(self._tokens)]}",
                "Idempotency-Key": str(uuid4()),
            },
        ) as answer:
            placed = await answer.json()
        (self.answered_ms if answer.ok else self.refused_ms).append((time.monotonic() - began) * 1000)
        self.answers[str(answer.status) if answer.ok else f"{answer.status} {placed.get('code')}"] += 1
        return UUID(placed["id"]) if answer.ok else None


def new_users() -> list[UUID]:
    """Enough users for a load."""
    return [uuid4() for _ in range(USERS)]


@asynccontextmanager
async def platform_load(platform: PlatformDescription) -> AsyncIterator[Load]:
    """A load on a whole platform, whose users have credits."""
    users = new_users()
    await grant_to_each(platform, users, CREDITS, actor="bench")
    async with Load(platform.urls["gateway"], platform.identity, users) as load:
        yield load


@dataclass(frozen=True, slots=True)
class Times:
    """Of each completed order, in milliseconds."""

    submit_ms: Sequence[float]
    complete_ms: Sequence[float]
    total_ms: Sequence[float]


async def completed_times(dsn: str, query: str, generations: Sequence[UUID], within_seconds: float) -> Times:
    """Wait until all of them are completed. Raises TimeoutError; ``query`` is ``TIMES``, or the same of a peer."""
    connection = await asyncpg.connect(dsn)
    try:
        deadline = time.monotonic() + within_seconds
        while len(rows := await connection.fetch(query, generations)) < len(generations):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(rows)} of {len(generations)} completed within {within_seconds:.0f} s")
            await asyncio.sleep(0.2)
    finally:
        await connection.close()
    return Times(*([float(row[name]) for row in rows] for name in ("submit_ms", "complete_ms", "total_ms")))


async def measure(platform: PlatformDescription, load: Load, per_second: float, seconds: float) -> tuple[str, ...]:
    """One row of the table of times."""
    generations = await load.run(per_second, seconds)
    times = await completed_times(platform.postgres.superuser_dsn, TIMES, generations, DRAIN_SECONDS)
    return (
        f"{per_second:g}/s",
        str(len(times.submit_ms)) if len(generations) == load.answers.total() else answers(load),
        *(summary(load.answered_ms), summary(times.submit_ms), summary(times.complete_ms)),
        f"{statistics.median(times.submit_ms) / AIM_OVERHEAD_MS:.2f}",
        f"{statistics.median(times.complete_ms) / AIM_OVERHEAD_MS:.2f}",
    )


async def overload(platform: PlatformDescription, load: Load, per_second: float, seconds: float) -> tuple[str, ...]:
    """One row of the table of the overload. Raises RuntimeError where it did more than refuse or answer late."""
    generations = await load.run(per_second, seconds)
    if load.answers.keys() - EXPECTED:
        raise RuntimeError(f"{per_second:g}/s: {answers(load)}")
    times = await completed_times(platform.postgres.superuser_dsn, TIMES, generations, OVERLOAD_DRAIN_SECONDS)
    return (
        f"{per_second:g}/s",
        answers(load),
        summary(load.answered_ms),
        summary(load.refused_ms),
        f"{percentile([*load.answered_ms, *load.refused_ms], 0.99) / AIM_OVERLOADED_MS:.2f}",
        f"{max(times.total_ms) / 1000:.1f}",
    )


def answers(load: Load) -> str:
    """How the orders were answered, in per cent."""
    total = load.answers.total()
    return ", ".join(f"{status} {number / total:.0%}" for status, number in sorted(load.answers.items()))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which so large a share of them lies."""
    return sorted(values)[max(0, int(len(values) * share) - 1)]


def summary(times_ms: Sequence[float]) -> str:
    """Median and 99th percentile."""
    return f"{statistics.median(times_ms):.0f} / {percentile(times_ms, 0.99):.0f}" if times_ms else "-"


def cpu_seconds(platform: PlatformDescription) -> dict[str, float]:
    """Processor time each part of the platform has used so far, its child processes included."""
    return {name: processor_seconds(process.pid) for name, process in platform.processes.items()}


def processor_seconds(pid: int) -> float:
    """Processor time of one process and its children so far, those that have ended included."""
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


async def estimating(platform: PlatformDescription) -> tuple[float, float]:
    """Rounds of estimates so far, and the seconds they took: the whole wall time, waits for the database included."""
    metric = (await scrape(platform))["generation"]["generation_estimating_seconds"]
    samples = {sample.name.rpartition("_")[2]: sample.value for sample in metric.samples}
    return samples["count"], samples["sum"]


async def main(seconds: float, overloaded: float) -> None:
    """Start, measure, print, stop."""
    supervisor = Supervisor(PlatformOptions(name="bench", workers=0, follow_logs=False))
    try:
        platform = await supervisor.start()
        async with instant_worker(platform), platform_load(platform) as load:
            say("warming up ...")
            await measure(platform, load, 5, 3)
            plain_ms = await load.plain_request_ms(50)
            rows = []
            for per_second in RATES:
                say(f"{per_second:g} requests/s for {seconds:g} s ...")
                before, (rounds, estimated) = cpu_seconds(platform), await estimating(platform)
                rows.append(await measure(platform, load, per_second, seconds))
                used = {name: after - before[name] for name, after in cpu_seconds(platform).items()}
            cost = process_rows(platform, used, int(per_second * seconds))
            rounds_now, estimated_now = await estimating(platform)
            rounds, estimated = rounds_now - rounds, estimated_now - estimated
            heaviest = per_second
            if overloaded:
                say(f"{overloaded:g} requests/s for {seconds:g} s, which is too much ...")
                refused = await overload(platform, load, overloaded, seconds)
        heading = ("rate", "orders", "POST", "accepted -> submitted", "callback -> completed", "of aim", "of aim")
        say("\nmilliseconds, median / p99; the last two columns are medians as a part of 60 ms")
        say(table(heading, rows))
        say(f"peer: a plain GET of the same gateway takes {plain_ms:.1f} ms at the median\n")
        say(f"processor time per order at {heaviest:g}/s, and memory per service")
        say(table(("process", "processor", "memory", "of 120 MB"), cost))
        say(
            f"estimates for all orders under way: {rounds:.0f} rounds of {estimated / rounds * 1000:.1f} ms, "
            f"so at most {estimated / seconds:.2%} of one core"
        )
        if overloaded:
            say("\nmore than it can make: answers, their milliseconds (median / p99), the p99 of all as a part of 1 s")
            say(table(("rate", "answers", "placed", "refused", "of aim", "slowest delivered, s"), [refused]))
    finally:
        await supervisor.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="how long at each rate (default: 20)")
    parser.add_argument("--overload", type=float, default=80.0, help="requests/s at the end (default: 80; 0: none)")
    arguments = parser.parse_args()
    uvloop.run(main(arguments.seconds, arguments.overload))
