"""A rolling restart, and a rolling upgrade from another release, of two replicas of every service, under load.

    python -m tests.faults.rollouts [--orders-per-second 10] [--from-commit TAG] [--only restart|upgrade] [--rounds 1]

Each replica is replaced as Kubernetes does it, one after the other: the proxy stops sending to it, after a pause it
gets SIGTERM, and it must end in order by itself; its successor gets requests when its readiness probe succeeds. There
is no third replica meanwhile. The upgrade begins with all replicas of the other release on its own schema; then the
migrations run as a Job does, and old and new replicas work side by side.

Meanwhile users order, buy and follow their events (``traffic.py``). Exit code 0 only if no request failed, no event was
lost, every order was delivered, every replica ended with code 0, and every invariant of the auditor holds.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from benchmarks.instant_worker import instant_worker
from contracts.message import SERVICES, Service
from local_platform.console import say
from local_platform.description import PlatformDescription
from local_platform.migrations import migrate_all
from local_platform.process_table import WITH_PUBLIC_HTTP, replica_name
from local_platform.reverse_proxy import ReplicaState
from local_platform.supervisor import PlatformOptions, Supervisor
from tests.faults.books import check_books
from tests.faults.releases import Release, before_the_newest_migration, check_out
from tests.faults.traffic import Traffic
from tests.support.waiting import eventually

REPLICAS: Final = 2
BEFORE_STOP_SECONDS: Final = 1.0
"""Between the end of new requests and SIGTERM. Production waits for 5 s, because a proxy there learns it from afar."""
UNDISTURBED_SECONDS: Final = 10.0
"""Traffic before the first replacement and after the last one."""
READY_SECONDS: Final = 60.0
SETTLE_SECONDS: Final = 120.0


@dataclass
class Rollout:
    """What was replaced, and what went wrong."""

    replaced: Counter[Service] = field(default_factory=Counter)
    longest_stop_seconds: float = 0.0
    errors: list[str] = field(default_factory=list)


class Replacements:
    """Replaces replicas one by one. Processes that die meanwhile are errors."""

    def __init__(self, supervisor: Supervisor, platform: PlatformDescription, http: aiohttp.ClientSession) -> None:
        self._supervisor = supervisor
        self._proxy = platform.urls["proxy"]
        self._http = http
        self.rollout = Rollout()

    async def replace_all(self, python: Path) -> None:
        """Every replica of every service, with the code of ``python``'s environment."""
        for service in SERVICES:
            for number in range(1, REPLICAS + 1):
                await self._replace(service, replica_name(service, number), python)

    async def states(self) -> dict[str, ReplicaState]:
        """The replicas as the proxy sees them."""
        async with self._http.get(f"{self._proxy}/replicas") as answer:
            return msgspec.json.decode(await answer.read(), type=dict[str, ReplicaState])

    async def _replace(self, service: Service, name: str, python: Path) -> None:
        behind_proxy = service in WITH_PUBLIC_HTTP
        if behind_proxy:
            await self._tell_proxy(name, "withdraw")
            await asyncio.sleep(BEFORE_STOP_SECONDS)
        began = time.monotonic()
        exit_code = await self._supervisor.end(name)
        self.rollout.longest_stop_seconds = max(self.rollout.longest_stop_seconds, time.monotonic() - began)
        if exit_code != 0:
            self.rollout.errors.append(f"{name} ended with {exit_code}")
        if behind_proxy:
            await self._tell_proxy(name, "admit")
        await self._supervisor.upgrade(name, python)
        if behind_proxy:
            await eventually(lambda: self._ready(name), READY_SECONDS, f"the readiness of {name}")
        self.rollout.replaced[service] += 1

    async def _ready(self, name: str) -> bool:
        return (await self.states())[name].ready

    async def _tell_proxy(self, name: str, what: str) -> None:
        async with self._http.post(f"{self._proxy}/replicas/{name}/{what}") as answer:
            answer.raise_for_status()


async def run_campaign(title: str, per_second: float, rounds: int, release: Release | None) -> int:
    """One platform from its start to its books. Returns the exit code."""
    say(f"\n{title}")
    options = PlatformOptions(
        name="faults-restart" if release is None else "faults-upgrade",
        workers=0,
        replicas=REPLICAS,
        python=None if release is None else release.python,
        # The drain of production. The platform's own is short, for a developer's patience.
        environment={service: {f"{service.upper()}_DRAIN_SECONDS": "12"} for service in SERVICES},
    )
    supervisor = Supervisor(options)
    try:
        platform = await supervisor.start()
        async with instant_worker(platform), aiohttp.ClientSession() as http, Traffic(platform) as traffic:
            replacements, over = Replacements(supervisor, platform, http), asyncio.Event()
            began = time.monotonic()
            ordering = asyncio.create_task(traffic.run(per_second, over))
            try:
                await asyncio.sleep(UNDISTURBED_SECONDS)
                if release is not None:
                    say("the migrations of this checkout run, while the other release serves ...")
                    await migrate_all(platform.postgres.dsns, SERVICES, Path(sys.executable))
                for _ in range(rounds if release is None else 1):
                    await replacements.replace_all(Path(sys.executable))
                await asyncio.sleep(UNDISTURBED_SECONDS)
            finally:
                over.set()
            await ordering
            lasted = time.monotonic() - began
            missing = await traffic.settle(SETTLE_SECONDS)
            states = await replacements.states()
            longest = await traffic.longest_wait_seconds()
        dead = [name for name in platform.processes if not supervisor.alive(name)]
        dropped = [f"{name}: {failure}" for name, state in states.items() for failure in state.failures]
        errors = [
            *replacements.rollout.errors,
            *traffic.failures,
            *dropped,
            *missing,
            *(f"{name} died" for name in dead),
        ]
        _report(traffic, replacements.rollout, states, lasted, longest, errors)
        return max(await check_books(platform), 1 if errors else 0)
    finally:
        await supervisor.stop()


def _report(
    traffic: Traffic,
    rollout: Rollout,
    states: dict[str, ReplicaState],
    lasted: float,
    longest_seconds: float,
    errors: list[str],
) -> None:
    replaced = ", ".join(f"{count} of {service}" for service, count in rollout.replaced.items())
    answers = ", ".join(f"{count} × {answer}" for answer, count in sorted(traffic.answers.items()))
    through_proxy = sum(state.requests for state in states.values())
    say(f"{lasted:.0f} s; replaced: {replaced}; the longest stop took {rollout.longest_stop_seconds:.1f} s")
    say(f"answers: {answers}; the slowest took {traffic.slowest_ms:.0f} ms")
    say(f"{through_proxy} requests went to replicas, webhooks included; streams were resumed {traffic.resumed} times")
    say(f"{len(traffic.orders)} orders, the slowest took {longest_seconds:.1f} s; {len(traffic.purchases)} purchases")
    say(f"{traffic.event_count()} events received; {len(traffic.failures)} failed requests; {len(errors)} errors")
    for error in errors[:40]:
        say(f"  {error}")


async def main(per_second: float, rounds: int, from_commit: str | None, only: str | None) -> int:
    """Both campaigns. Returns the exit code."""
    code = 0
    if only != "upgrade":
        code = await run_campaign("rolling restart of this checkout", per_second, rounds, None)
    if only != "restart":
        with tempfile.TemporaryDirectory(prefix="reelhouse-release-") as directory:
            say("\ninstalling the other release ...")
            release = await asyncio.to_thread(check_out, from_commit or before_the_newest_migration(), Path(directory))
            title = f"rolling upgrade from {release.commit[:7]} ({release.subject}) to this checkout"
            code = max(code, await run_campaign(title, per_second, rounds, release))
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--orders-per-second", type=float, default=10.0, help="(default: 10)")
    parser.add_argument("--rounds", type=int, default=1, help="how often the restart replaces all (default: 1)")
    parser.add_argument(
        "--from-commit", help="tag or commit of the other release (default: before the newest migration)"
    )
    parser.add_argument("--only", choices=("restart", "upgrade"), help="one of the two")
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.orders_per_second, options.rounds, options.from_commit, options.only)))
