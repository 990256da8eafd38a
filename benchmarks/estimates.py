"""How often the estimates held: what users were told, against what happened, under three loads.

    python -m benchmarks.estimates

Renders take a random time (lognormal, median 3 s), eight at a time. First the platform learns, from a queue that it
works off. Then: idle (orders come more slowly than they are made), saturated (eight users have half a minute's work
waiting, and go on ordering), and one greedy user (fifty orders at once, while others order now and then).
Every user is asked once a second for their list, as a page would show it. An estimate of p50 should hold in half of the
cases, one of p90 in nine of ten. The first estimate of each order counts once, and all that it was given count, too.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import uvloop

from benchmarks.instant_worker import InstantWorker
from benchmarks.smoke import estimating
from local_platform.console import say, table
from local_platform.description import PlatformDescription
from local_platform.identity import sign_token
from local_platform.process_table import ENDPOINT_ID
from local_platform.supervisor import PlatformOptions, Supervisor
from tests.faults.granting import grant_to_each
from tests.support.media import picture

SEED: Final = 20261127
SLOTS: Final = 8
MEDIAN_SECONDS: Final = 3.0
SPREAD: Final = 0.35
SIDE_PIXELS: Final = 256
USERS: Final = 8
CREDITS: Final = 1_000_000
AT_ONCE: Final = 6
"""Requests on their way: more of them than the gateway has connections get 429."""
ASK_SECONDS: Final = 1.0
DRAIN_SECONDS: Final = 90.0
ENDED: Final = ("completed", "failed", "cancelled", "refused")
TRUTH: Final = """
    SELECT g.generation_id, g.finished_at, (
        SELECT min(started_at) FROM generation.attempts AS a WHERE a.generation_id = g.generation_id) AS began_at
    FROM generation.video_generations AS g
    WHERE g.generation_id = ANY($1::uuid[]) AND g.status = 'completed'
"""


@dataclass(frozen=True)
class Told:
    """One estimate that a user saw: of the start or the completion."""

    generation_id: UUID
    what: str
    at: datetime
    p50_at: datetime
    p90_at: datetime


@dataclass
class Load:
    """One load: how many orders came, and what their users were told."""

    name: str
    orders: list[UUID] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    deepest: int = 0


class Customers:
    """Users who order small pictures and look at their lists."""

    def __init__(self, platform: PlatformDescription, http: aiohttp.ClientSession) -> None:
        self.ids = [uuid4() for _ in range(USERS)]
        self._tokens = [sign_token(platform.identity, user, "standard") for user in self.ids]
        self._http = http
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def order(self, load: Load, user: int) -> None:
        """One picture more."""
        parameters = {"prompt": f"picture {len(load.orders)}", "width": SIDE_PIXELS, "height": SIDE_PIXELS}
        headers = {"Authorization": f"Bearer {self._tokens[user]}", "Idempotency-Key": str(uuid4())}
        body = {"model_id": "flux-schnell", "parameters": parameters}
        async with self._at_once, self._http.post("/v1/generations", json=body, headers=headers) as answer:
            load.orders.append(UUID((await answer.json())["id"]))

    async def evenly(self, load: Load, users: Sequence[int], per_second: float, seconds: float) -> None:
        """Order at an even rate, in turn."""
        began = time.monotonic()
        for number in range(int(per_second * seconds)):
            await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            await self.order(load, users[number % len(users)])

    async def at_once(self, load: Load, users: Iterable[int]) -> None:
        """One order of each of these users, as fast as the gateway takes them."""
        await asyncio.gather(*(self.order(load, user) for user in users))

    async def watch(self, load: Load) -> None:
        """Ask for every list once in ``ASK_SECONDS`` until cancelled."""
        while True:
            began = time.monotonic()
            for user in range(USERS):
                await self._look(load, user)
            await asyncio.sleep(max(0.0, ASK_SECONDS - (time.monotonic() - began)))

    async def under_way(self) -> int:
        """How many orders have not ended."""
        return sum(
            [len([one for one in await self._list(user) if one["status"] not in ENDED]) for user in range(USERS)]
        )

    async def _look(self, load: Load, user: int) -> None:
        shown = await self._list(user)
        at = datetime.now(UTC)
        for one in shown:
            load.deepest = max(load.deepest, one["queue_position"] or 0)
            for what in ("start", "completion"):
                p50_at, p90_at = one[f"estimated_{what}_at"], one[f"estimated_{what}_p90_at"]
                if p50_at is not None:
                    moments = (datetime.fromisoformat(p50_at), datetime.fromisoformat(p90_at))
                    load.told.append(Told(UUID(one["id"]), what, at, *moments))

    async def _list(self, user: int) -> list[dict[str, Any]]:
        headers = {"Authorization": f"Bearer {self._tokens[user]}"}
        async with self._http.get("/v1/generations", params={"limit": "100"}, headers=headers) as answer:
            items: list[dict[str, Any]] = (await answer.json())["items"]
        return items


async def drain(customers: Customers) -> None:
    """Wait until every order has ended."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while left := await customers.under_way():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{left} orders did not end within {DRAIN_SECONDS:.0f} s")
        await asyncio.sleep(0.5)


async def run_loads(customers: Customers) -> list[Load]:
    """Learn, then the three loads, each after the end of the one before."""
    everybody = range(USERS)
    warm, idle, saturated, greedy = (Load(name) for name in ("warm-up", "idle", "saturated", "one greedy user"))
    say("learning ...")
    await customers.at_once(warm, [number % USERS for number in range(40)])
    await drain(customers)
    for load in (idle, saturated, greedy):
        say(f"{load.name} ...")
        watching = asyncio.create_task(customers.watch(load))
        if load is idle:
            await customers.evenly(load, everybody, 1.0, 30.0)
        elif load is saturated:
            await customers.at_once(load, [number % USERS for number in range(72)])
            await customers.evenly(load, everybody, 1.5, 15.0)
        else:
            await customers.at_once(load, [0] * 50)
            await customers.evenly(load, everybody[1:], 1.0, 25.0)
        await drain(customers)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    return [idle, saturated, greedy]


def rows(load: Load, truth: dict[UUID, asyncpg.Record]) -> list[tuple[str, ...]]:
    """Of the starts and the completions: how often the estimates held, and how far the p50 was off."""
    made: list[tuple[str, ...]] = []
    for what, column in (("start", "began_at"), ("completion", "finished_at")):
        told = [(one, truth[one.generation_id][column]) for one in load.told if one.what == what]
        # Somebody who asks just after the fact sees what was true before it.
        told = [(one, actual) for one, actual in told if actual is not None and one.at < actual]
        first = list({one.generation_id: (one, actual) for one, actual in reversed(told)}.values())
        off = sorted(abs((actual - one.p50_at).total_seconds()) for one, actual in first)
        ahead = sorted((actual - one.at).total_seconds() for one, actual in first)
        made.append(
            (
                load.name,
                what,
                str(len(first)),
                *_held(first),
                *_held(told),
                f"{ahead[len(ahead) // 2]:.1f} s" if first else "-",
                f"{off[len(off) // 2]:.1f} s" if first else "-",
            )
        )
    return made


def _held(told: Sequence[tuple[Told, datetime]]) -> tuple[str, str]:
    if not told:
        return "-", "-"
    shares = (sum(actual <= getattr(one, name) for one, actual in told) / len(told) for name in ("p50_at", "p90_at"))
    p50, p90 = shares
    return f"{p50:.0%}", f"{p90:.0%}"


async def measure(platform: PlatformDescription) -> None:
    """Run the loads and print the tables."""
    source = random.Random(SEED)
    worker = InstantWorker(
        platform.urls["runpod"],
        ENDPOINT_ID,
        platform.environments["generation"]["GENERATION_RUNPOD_API_KEY"],
        picture(SIDE_PIXELS, SIDE_PIXELS),
        SLOTS,
        lambda: MEDIAN_SECONDS * source.lognormvariate(0, SPREAD),
        reports_begin=True,
    )
    working = asyncio.create_task(worker.run())
    connection = await asyncpg.connect(platform.postgres.superuser_dsn)
    timeout = aiohttp.ClientTimeout(total=30)
    try:
        async with aiohttp.ClientSession(platform.urls["gateway"], timeout=timeout, raise_for_status=True) as http:
            customers = Customers(platform, http)
            await grant_to_each(platform, customers.ids, CREDITS, actor="bench")
            loads = await run_loads(customers)
            lines: list[tuple[str, ...]] = []
            for load in loads:
                found = await connection.fetch(TRUTH, load.orders)
                lines += rows(load, {row["generation_id"]: row for row in found})
        heading = ("load", "of the", "orders", "first p50", "first p90", "all p50", "all p90", "ahead", "off by")
        say("\nhow often the estimates held; `ahead` and `off by` are medians of the first ones")
        say(table(heading, lines))
        say("deepest queue: " + ", ".join(f"{load.name} {load.deepest}" for load in loads))
        rounds, seconds = await estimating(platform)
        say(f"a round of estimating takes {1000 * seconds / rounds:.1f} ms, every 2 s")
    finally:
        working.cancel()
        await asyncio.wait({working})
        await connection.close()


async def main() -> None:
    """Start, measure, print, stop."""
    # The GPUs that the endpoints are told of are those that there are: so the queue is ours.
    endpoints = json.dumps({name: {"id": ENDPOINT_ID, "max_active": SLOTS} for name in ("image", "video")})
    environment = {"generation": {"GENERATION_ENDPOINTS": endpoints}}
    supervisor = Supervisor(PlatformOptions(name="estimates", workers=0, environment=environment))
    try:
        await measure(await supervisor.start())
    finally:
        await supervisor.stop()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    uvloop.run(main())
