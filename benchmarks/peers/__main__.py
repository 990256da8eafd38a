"""What an order costs beside a plain queue: ours, an arq version and a BullMQ version, one after the other in one run.

    python -m benchmarks.peers [--seconds 15] [--no-ladder] [--no-messages] [--kills] [--only ours arq BullMQ]

All three do the same job on the same PostgreSQL, object store, provider emulator and load, with a worker that renders
nothing. benchmarks/peers/README.md says what the peers leave out. Ours runs as it ships, without previews, which are
made after an order at a low priority. The emulated RunPod keeps no rate limit here.
"""

import argparse
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, get_args

import aiohttp
import psutil
import uvloop

from benchmarks import messaging
from benchmarks.instant_worker import instant_worker
from benchmarks.peers import kills, peers
from benchmarks.peers.measuring import LADDER, OURS, PLAIN, RATE, Measured, System, measure, result_rows
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
    """What is measured. ``ladder``: rates that are tried until one is too much."""

    seconds: float
    ladder: Sequence[float]
    kills: bool
    messages: bool
    only: Sequence[str]


def report(measured: Mapping[str, Measured]) -> None:
    """Print the table."""
    say(f"\nat {RATE:g} orders/s; the last column is ours as a multiple of {PLAIN}'s")
    say(table(("", *measured, "ratio"), result_rows(measured)))
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
    """One run: the platform, with ours and then with the peers beside the same servers."""

    options: Options
    folder: Path
    measured: dict[str, Measured] = field(default_factory=dict)
    survived: dict[str, kills.Survived] = field(default_factory=dict)

    async def run(self) -> None:
        """Start the platform, measure ours, end its services, measure the peers."""
        say("starting PostgreSQL, NATS, the object store, the emulators and our services ...")
        environment = {"storage": {"STORAGE_PREVIEWS": "off"}}
        supervisor = Supervisor(PlatformOptions(name="peers", root=self.folder, workers=0, environment=environment))
        try:
            platform = await supervisor.start()
            await _lift_rate_limits(platform)
            async with instant_worker(platform):
                await self._measure_all(platform, supervisor)
        finally:
            await supervisor.stop()

    async def _measure_all(self, platform: PlatformDescription, supervisor: Supervisor) -> None:
        if OURS in self.options.only:
            await self._measure_ours(platform, supervisor)
        for service in SERVICES:
            await supervisor.end(service)
        for name in get_args(peers.PeerName):
            if name in self.options.only:
                await self._measure_peer(name, platform)

    async def _measure_ours(self, platform: PlatformDescription, supervisor: Supervisor) -> None:
        async with platform_load(platform) as load:
            app = [platform.processes[service].pid for service in SERVICES]
            parts = {"app": app, **_servers(platform, platform.processes["nats"].pid)}
            system = System(OURS, load, platform.postgres.superuser_dsn, TIMES, parts)
            self.measured[OURS] = await measure(system, self.options.seconds, self.options.ladder)
        if self.options.kills:
            users = new_users()
            await grant_to_each(platform, users, CREDITS, actor="bench")
            targets = ("gateway", "generation", "gateway", "storage", "gateway", "billing")
            killers = [_killer(supervisor, target) for target in targets]
            say(f"{OURS}: {kills.KILLS} kills in {kills.ORDERS} orders ...")
            self.survived[OURS] = await kills.survive(
                *(platform.urls["gateway"], platform.identity, users),
                *(platform.postgres.superuser_dsn, kills.OUR_ORDERS, killers),
            )

    async def _measure_peer(self, name: peers.PeerName, platform: PlatformDescription) -> None:
        users, victims = new_users(), new_users()
        async with (
            peers.running(name, platform, self.folder, [*users, *victims]) as peer,
            Load(peer.url, platform.identity, users) as load,
        ):
            parts = {"app": [peer.api.pid, peer.worker.pid], **_servers(platform, peer.redis.pid)}
            system = System(name, load, peer.dsn, peers.TIMES, parts)
            self.measured[name] = await measure(system, self.options.seconds, self.options.ladder)
            if self.options.kills:
                killers = [partial(peers.kill, process) for process in (peer.api, peer.worker)]
                say(f"{name}: {kills.KILLS} kills in {kills.ORDERS} orders ...")
                self.survived[name] = await kills.survive(
                    *(peer.url, platform.identity, victims, peer.dsn, kills.PEER_ORDERS, killers)
                )


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


def _servers(platform: PlatformDescription, broker: int) -> dict[str, Sequence[int]]:
    return {
        "PostgreSQL": [platform.processes["postgres"].pid],
        "broker": [broker],
        "S3": [platform.processes["s3"].pid],
    }


async def main(options: Options) -> None:
    """Compare the systems, then the messages."""
    with removed_at_exit("reelhouse-bench-peers-") as folder:
        comparison = Comparison(options, folder)
        await comparison.run()
        report(comparison.measured)
        if comparison.survived:
            report_kills(comparison.survived)
        if options.messages:
            await compare_messages(folder)


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15.0, help=f"how long at {RATE:g} orders/s (default: 15)")
    parser.add_argument("--no-ladder", action="store_true", help="do not look for the highest rate")
    parser.add_argument("--no-messages", action="store_true", help="do not compare messages with empty jobs")
    parser.add_argument("--kills", action="store_true", help="kill processes, and count what is lost and doubled")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="which systems (default: all)")
    given = parser.parse_args()
    ladder = () if given.no_ladder else LADDER
    return Options(given.seconds, ladder, given.kills, not given.no_messages, given.only)


if __name__ == "__main__":
    try:
        peers.check_installed()
    except peers.NotInstalledError as error:
        sys.exit(str(error))
    uvloop.run(main(_options()))
