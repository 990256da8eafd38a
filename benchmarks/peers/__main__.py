"""What an order costs beside a plain queue: ours, an arq version and a BullMQ version, in turns in one run.

    python -m benchmarks.peers [--turns 3] [--seconds 10] [--no-ladder] [--no-messages] [--kills] [--only ours BullMQ]

All three do the same job on the same PostgreSQL, object store, provider emulator and load, with a worker that renders
nothing. benchmarks/peers/README.md says what the peers leave out. Ours runs as it ships, without previews, which are
made after an order at a low priority. The emulated RunPod keeps no rate limit here. In each turn every system is
measured once, since a machine that others use, too, is not as fast in one minute as in the next.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, cast, get_args

import aiohttp
import psutil
import uvloop

from benchmarks import messaging
from benchmarks.instant_worker import instant_worker
from benchmarks.peers import kills, peers
from benchmarks.peers.measuring import (
    OURS,
    PLAIN,
    RATE,
    Measured,
    System,
    highest_rate,
    measure,
    result_rows,
    together,
    turn_rows,
)
from benchmarks.smoke import (
    CREDITS,
    TIMES,
    Load,
    new_users,
    platform_load,
)
from contracts.message import SERVICES
from local_platform.console import say, table
from local_platform.description import PlatformDescription
from local_platform.supervisor import PlatformOptions, Supervisor
from tests.faults.granting import grant_to_each
from tests.support.folders import removed_at_exit
from tests.support.waiting import eventually

NAMES: Final = (OURS, *get_args(peers.PeerName))
MESSAGES: Final = 4_000
BULK: Final = 20


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured. ``seconds``: of each turn."""

    turns: int
    seconds: float
    ladder: bool
    kills: bool
    messages: bool
    only: Sequence[str]


@dataclass(frozen=True, slots=True)
class Contender:
    """One that is compared. Its processes have new ids each time that it was started."""

    system: Callable[[], System]
    start: Callable[[], Awaitable[None]]
    end: Callable[[], Awaitable[None]]
    survive: Callable[[], Awaitable[kills.Survived]]


def report(turns: Mapping[str, Sequence[Measured]], highest: Mapping[str, str]) -> None:
    """Print the tables."""
    say("\nprocessor, ms an order, in each turn")
    say(table(("turn", *turns, "ratio"), turn_rows(turns)))
    say(f"\nat {RATE:g} orders/s, all turns; the last column is ours as a multiple of {PLAIN}'s")
    say(table(("", *turns, "ratio"), result_rows({name: together(alike) for name, alike in turns.items()}, highest)))
    say(f"load average of this machine at the end: {', '.join(f'{value:.1f}' for value in psutil.getloadavg())}")


async def compare_messages(folder: Path) -> None:
    """Our messages, whole, beside BullMQ's empty jobs."""
    say("messages ...")
    rows = []
    for bulk in (1, BULK):
        mine = await messaging.messages_per_second(MESSAGES * (1 if bulk == 1 else 4), bulk)
        theirs = await peers.empty_jobs_per_second(folder, MESSAGES * 4, bulk)
        rows.append(("one by one" if bulk == 1 else f"in {bulk}s", f"{mine:,.0f}", f"{theirs:,.0f}"))
    say("\na second: our messages (commit, relay, stream, inbox, commit), and BullMQ's empty jobs")
    say(table(("", OURS, "BullMQ"), rows))


@dataclass(slots=True)
class Comparison:
    """One run: the platform, and the peers beside the same servers. One system at a time works."""

    options: Options
    folder: Path
    turns: dict[str, list[Measured]] = field(default_factory=dict)
    highest: dict[str, str] = field(default_factory=dict)
    survived: dict[str, kills.Survived] = field(default_factory=dict)

    async def run(self) -> None:
        """Start everything, measure the systems in turns, and then what each stands."""
        say("starting PostgreSQL, NATS, the object store, the emulators and our services ...")
        environment = {"storage": {"STORAGE_PREVIEWS": "off"}}
        supervisor = Supervisor(PlatformOptions(name="peers", root=self.folder, workers=0, environment=environment))
        try:
            platform = await supervisor.start()
            await _lift_rate_limits(platform)
            async with instant_worker(platform), AsyncExitStack() as stack:
                systems = {name: await self._contender(stack, name, platform, supervisor) for name in self.options.only}
                await _end_services(supervisor)
                await self._measure(systems)
        finally:
            await supervisor.stop()

    async def _contender(
        self, stack: AsyncExitStack, name: str, platform: PlatformDescription, supervisor: Supervisor
    ) -> Contender:
        if name in get_args(peers.PeerName):
            return await _peer(stack, cast(peers.PeerName, name), platform, supervisor, self.folder)
        return await _ours(stack, platform, supervisor)

    async def _measure(self, systems: Mapping[str, Contender]) -> None:
        for number in range(1, self.options.turns + 1):
            say(f"turn {number} of {self.options.turns}")
            for name, contender in systems.items():
                await contender.start()
                measured = await measure(contender.system(), self.options.seconds)
                self.turns.setdefault(name, []).append(measured)
                await contender.end()
        for name, contender in systems.items():
            await contender.start()
            if self.options.ladder:
                self.highest[name] = await highest_rate(contender.system())
            if self.options.kills:
                say(f"{name}: {kills.KILLS} kills in {kills.ORDERS} orders ...")
                self.survived[name] = await contender.survive()
            await contender.end()


async def _ours(stack: AsyncExitStack, platform: PlatformDescription, supervisor: Supervisor) -> Contender:
    load = await stack.enter_async_context(platform_load(platform))
    victims = new_users()
    await grant_to_each(platform, victims, CREDITS, actor="bench")

    def system() -> System:
        parts = {
            "app": [supervisor.pid(service) for service in SERVICES],
            **_servers(supervisor, supervisor.pid("nats")),
        }
        return System(OURS, load, platform.postgres.superuser_dsn, TIMES, parts)

    async def start() -> None:
        await asyncio.gather(*(supervisor.revive(service) for service in SERVICES if not supervisor.alive(service)))

    async def survive() -> kills.Survived:
        targets = ("gateway", "generation", "gateway", "storage", "gateway", "billing")
        return await kills.survive(
            *(platform.urls["gateway"], platform.identity, victims, platform.postgres.superuser_dsn),
            *(kills.OUR_ORDERS, [_killer(supervisor, target) for target in targets]),
        )

    return Contender(system, start, partial(_end_services, supervisor), survive)


async def _peer(
    stack: AsyncExitStack,
    name: peers.PeerName,
    platform: PlatformDescription,
    supervisor: Supervisor,
    folder: Path,
) -> Contender:
    """A peer runs all the time: without orders it takes next to nothing."""
    users, victims = new_users(), new_users()
    peer = await stack.enter_async_context(peers.running(name, platform, folder, [*users, *victims]))
    load = await stack.enter_async_context(Load(peer.url, platform.identity, users))

    def system() -> System:
        parts = {"app": [peer.api.pid, peer.worker.pid], **_servers(supervisor, peer.redis.pid)}
        return System(name, load, peer.dsn, peers.TIMES, parts)

    async def survive() -> kills.Survived:
        killers = [partial(peers.kill, process) for process in (peer.api, peer.worker)]
        return await kills.survive(peer.url, platform.identity, victims, peer.dsn, kills.PEER_ORDERS, killers)

    return Contender(system, _nothing, _nothing, survive)


async def _end_services(supervisor: Supervisor) -> None:
    await asyncio.gather(*(supervisor.end(service) for service in SERVICES))


async def _nothing() -> None:
    pass


def _killer(supervisor: Supervisor, service: str) -> Callable[[], Awaitable[None]]:
    async def kill() -> None:
        supervisor.kill(service)
        await eventually(lambda: not supervisor.alive(service), 10, f"the death of {service}")
        await supervisor.revive(service)

    return kill


def report_kills(survived: Mapping[str, kills.Survived]) -> None:
    """Print what the kills cost."""
    rows = [
        (name, str(one.requests), str(one.orders), str(one.lost), str(one.doubled)) for name, one in survived.items()
    ]
    say(f"\n{kills.KILLS} kill -9 of API and worker in turn; requests without an answer are repeated under their key")
    say(table(("", "requests", "orders debited", "not delivered after a minute", "debited twice"), rows))


async def _lift_rate_limits(platform: PlatformDescription) -> None:
    async with (
        aiohttp.ClientSession(raise_for_status=True) as http,
        http.patch(f"{platform.urls['runpod']}/admin/settings", json={"limits": {}}),
    ):
        pass


def _servers(supervisor: Supervisor, broker: int) -> dict[str, Sequence[int]]:
    return {"PostgreSQL": [supervisor.pid("postgres")], "broker": [broker], "S3": [supervisor.pid("s3")]}


async def main(options: Options) -> None:
    """Compare the systems, then the messages."""
    with removed_at_exit("reelhouse-bench-peers-") as folder:
        comparison = Comparison(options, folder)
        await comparison.run()
        report(comparison.turns, comparison.highest)
        if comparison.survived:
            report_kills(comparison.survived)
        if options.messages:
            await compare_messages(folder)


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="how often each system is measured (default: 3)")
    parser.add_argument("--seconds", type=float, default=10.0, help=f"of a turn, at {RATE:g} orders/s (default: 10)")
    parser.add_argument("--no-ladder", action="store_true", help="do not look for the highest rate")
    parser.add_argument("--no-messages", action="store_true", help="do not compare messages with empty jobs")
    parser.add_argument("--kills", action="store_true", help="kill processes, and count what is lost and doubled")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="which systems (default: all)")
    given = parser.parse_args()
    if given.turns < 1:
        parser.error("--turns must be at least 1")
    return Options(
        given.turns, given.seconds, not given.no_ladder, given.kills, not given.no_messages, tuple(given.only)
    )


if __name__ == "__main__":
    try:
        peers.check_installed()
    except peers.NotInstalledError as error:
        sys.exit(str(error))
    uvloop.run(main(_options()))
