"""Three NATS servers with replicated streams: killed, frozen, wiped, without a majority, and all wiped, under orders.

    python -m tests.faults.nats_cluster [--orders-per-second 2] [--pause 10] [--seed 20261126]

The whole platform runs on the cluster with ``STREAM_REPLICAS=3`` and the timers that are shipped. In turn: the leader
of a stream is killed, the next leader is frozen, one server is killed and loses its disk, two are away for half a
minute, and at last all three lose their disks at once. Nobody helps. Within a minute everything must be right, as in
``tests.faults.generations``. Exit code 0 only then.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from nats.aio.client import Client
from nats.errors import Error as NatsError

from contracts.message import SERVICES
from local_platform.console import say
from local_platform.servers import NatsServer
from local_platform.servers.nats import ADMIN
from local_platform.servers.ports import free_port
from local_platform.supervisor import PlatformOptions, Supervisor
from tests.faults.campaign import deaths_of_services, run_campaign
from tests.support.folders import removed_at_exit
from tests.support.waiting import eventually

SERVERS: Final = 3
WITHOUT_MAJORITY_SECONDS: Final = 30.0
FROZEN_SECONDS: Final = 20.0
DOWN_SECONDS: Final = 5.0
STREAM: Final = "GENERATION"


class Node(NatsServer):
    """One of the servers: the local platform's, and routes to the others."""

    def __init__(self, directory: Path, users: dict[str, str], routes: Sequence[int], number: int) -> None:
        self.chosen_port = free_port()
        super().__init__(directory, port=self.chosen_port, replicas=SERVERS)
        self.users = users
        self._routes = routes
        self._number = number

    @property
    def server_name(self) -> str:
        """As the cluster knows it."""
        return f"reelhouse-{self.port}"

    def _configuration(self) -> dict[str, object]:
        return super()._configuration() | {
            "cluster": {
                "name": "reelhouse",
                "host": "127.0.0.1",
                "port": self._routes[self._number],
                "routes": [f"nats://127.0.0.1:{port}" for port in self._routes],
            }
        }


class Cluster:
    """Three servers that know each other."""

    def __init__(self, directory: Path) -> None:
        routes = [free_port() for _ in range(SERVERS)]
        self.users = NatsServer(directory).users
        self.nodes = [Node(directory / str(number), self.users, routes, number) for number in range(SERVERS)]

    @property
    def url(self) -> str:
        """All addresses, for a client that finds one of them."""
        return ",".join(f"nats://127.0.0.1:{node.chosen_port}" for node in self.nodes)

    async def start(self, nodes: Sequence[Node] | None = None) -> None:
        """Start these servers, or all: together, because one alone is not healthy without a majority."""
        await asyncio.gather(*(node.start() for node in nodes or self.nodes))

    async def leader(self) -> Node:
        """The server that leads a stream."""
        client = Client()
        await client.connect(self.url.split(","), user=ADMIN, password=self.users[ADMIN])
        try:

            async def name() -> str | None:
                with suppress(NatsError):
                    info = await client.jetstream().stream_info(STREAM)
                    return info.cluster.leader if info.cluster is not None else None
                return None

            leader = await eventually(name, 60, "a leader")
        finally:
            await client.close()
        return next(node for node in self.nodes if node.server_name == leader)

    def environment(self) -> dict[str, dict[str, str]]:
        """The settings with which the services use this cluster."""
        return {
            service: {
                f"{service.upper()}_NATS_URL": self.url,
                f"{service.upper()}_NATS_PASSWORD": self.users[service],
                f"{service.upper()}_STREAM_REPLICAS": str(SERVERS),
            }
            for service in SERVICES
        }


class Faults:
    """What happens to the servers, in this order."""

    def __init__(self, cluster: Cluster, pause_seconds: float) -> None:
        self._cluster = cluster
        self._pause_seconds = pause_seconds
        self.counts: Counter[tuple[str, str]] = Counter()
        self.unexpected_deaths: list[str] = []

    async def run(self) -> None:
        """Everything once. Returns when all servers run."""
        for fault in (self._kill_leader, self._freeze_one, self._wipe_one, self._lose_majority, self._wipe_all):
            await asyncio.sleep(self._pause_seconds)
            await fault()
            say(f"over: {fault.__name__.strip('_').replace('_', ' ')}")

    async def _kill_leader(self) -> None:
        leader = await self._cluster.leader()
        self.counts["kill", "the leader"] += 1
        leader.kill()
        await asyncio.sleep(DOWN_SECONDS)
        await leader.start()

    async def _freeze_one(self) -> None:
        leader = await self._cluster.leader()
        self.counts["freeze", "the leader"] += 1
        _signal(leader, signal.SIGSTOP)
        await asyncio.sleep(FROZEN_SECONDS)
        _signal(leader, signal.SIGCONT)

    async def _wipe_one(self) -> None:
        node = self._cluster.nodes[0]
        self.counts["wipe", "one"] += 1
        node.kill()
        node.wipe_store()
        await node.start()

    async def _lose_majority(self) -> None:
        lost = self._cluster.nodes[1:]
        self.counts["kill", "two of three"] += 1
        for node in lost:
            node.kill()
        await asyncio.sleep(WITHOUT_MAJORITY_SECONDS)
        await self._cluster.start(lost)

    async def _wipe_all(self) -> None:
        self.counts["wipe", "all"] += 1
        for node in self._cluster.nodes:
            node.kill()
            node.wipe_store()
        await self._cluster.start()


def _signal(node: Node, number: signal.Signals) -> None:
    os.kill(node.pid, number)


async def main(orders_per_second: float, pause_seconds: float, seed: int) -> int:
    """Run the campaign and print its outcome. Returns the exit code."""
    with removed_at_exit("reelhouse-faults-nats-") as directory:
        cluster = Cluster(directory)
        await cluster.start()
        supervisor = Supervisor(
            PlatformOptions(name="faults-nats", workers=0, environment=cluster.environment(), follow_logs=False)
        )
        try:
            platform = await supervisor.start()
            faults = Faults(cluster, pause_seconds)
            async with deaths_of_services(supervisor, platform, faults.unexpected_deaths):
                return await run_campaign(platform, faults, faults.run, seed, orders_per_second)
        finally:
            await supervisor.stop()
            for node in cluster.nodes:
                await node.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--orders-per-second", type=float, default=2.0, help="(default: 2)")
    parser.add_argument("--pause", type=float, default=10.0, help="seconds of quiet before each fault (default: 10)")
    parser.add_argument("--seed", type=int, default=20261126)
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.orders_per_second, options.pause, options.seed)))
