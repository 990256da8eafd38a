"""Disasters for the processes of a platform, by a schedule that one seed reproduces."""

import asyncio
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Protocol

import nats
import psutil

from contracts.message import SERVICES
from contracts.streams import STREAMS
from local_platform.console import say
from local_platform.description import PlatformDescription
from local_platform.servers.nats import ADMIN, NatsServer
from local_platform.servers.processes import ServerFailedError, last_lines
from tests.faults.fragile_platform import FAKETIME, FragilePlatform
from tests.support.waiting import eventually

Action = Literal["kill", "freeze", "wipe", "roll back", "silence", "cut off", "purge", "fill disk", "shift clock"]

_WATCH_SECONDS: Final = 0.2
_MAX_FAILED_STARTS: Final = 5
_EXIT_SECONDS: Final = 30.0
_CLOCK_SHIFTS: Final = (-7200, -600, -45, 45, 600, 7200)
"""Seconds. Signatures of requests to the object store hold for 15 minutes."""


@dataclass(frozen=True, slots=True)
class Disaster:
    """``victim`` suffers for ``lasts_seconds`` from ``at_seconds`` on, counted from the beginning."""

    at_seconds: float
    action: Action
    victim: str
    lasts_seconds: float


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of disaster, and how often it comes compared with the others."""

    action: Action
    victims: tuple[str, ...]
    weight: float
    longest_seconds: float


_KINDS: Final = (
    Kind("kill", SERVICES, 12, 1.0),
    Kind("kill", ("nats",), 2, 2.0),
    Kind("kill", ("postgres",), 2, 2.0),
    Kind("kill", ("s3",), 1, 2.0),
    # Longer than every lease: a process that wakes up must find that another one has its work.
    Kind("freeze", SERVICES, 2, 35.0),
    Kind("freeze", ("nats", "postgres", "s3"), 1, 15.0),
    Kind("wipe", ("nats",), 0.5, 1.0),
    Kind("roll back", ("nats",), 0.5, 1.0),
    # The connections that stand carry nothing any more, and nobody says so. New ones work.
    Kind("silence", SERVICES, 1.5, 40.0),
    # All connections, and then what was sent meanwhile comes through after all.
    Kind("cut off", SERVICES, 1.5, 25.0),
    Kind("purge", ("nats",), 1, 0.0),
    Kind("fill disk", ("nats", "postgres"), 0.75, 10.0),
    Kind("shift clock", SERVICES, 1, 20.0),
)


def kinds(platform: FragilePlatform, among: Collection[str] = (*SERVICES, "nats", "postgres", "s3")) -> list[Kind]:
    """What this machine can do to those processes. What it cannot is said."""
    impossible: set[Action] = set() if platform.disks else {"fill disk"}
    if FAKETIME is None:
        say("NO CLOCK IS SHIFTED: Debian's package faketime is not installed")
        impossible.add("shift clock")
    found = []
    for kind in _KINDS:
        victims = tuple(victim for victim in kind.victims if victim in among)
        if victims and kind.action not in impossible:
            found.append(replace(kind, victims=victims))
    return found


def schedule(seed: int, count: int, per_second: float, kinds: Sequence[Kind]) -> list[Disaster]:
    """``count`` disasters at random moments, ``per_second`` on average: the same for the same arguments."""
    source = random.Random(seed)
    at, disasters = 0.0, []
    for _ in range(count):
        at += source.expovariate(per_second)
        [kind] = source.choices(kinds, [kind.weight for kind in kinds])
        victim = source.choice(kind.victims)
        disasters.append(Disaster(at, kind.action, victim, source.uniform(0.0, kind.longest_seconds)))
    return disasters


class Faults(Protocol):
    """What was done to a platform: how often which action hit which victim, and which processes died of themselves."""

    counts: Counter[tuple[str, str]]
    unexpected_deaths: list[str]


def fault_rows(faults: Faults) -> list[tuple[str, str, str]]:
    """What was done, for a table."""
    return [(action, victim, str(times)) for (action, victim), times in sorted(faults.counts.items())]


class DisasterRunner:
    """Runs a schedule against a platform that nothing else restarts. Disasters of one process happen one by one."""

    def __init__(self, supervisor: FragilePlatform, platform: PlatformDescription, copies: Path) -> None:
        self._supervisor = supervisor
        self._store_copy = copies / "nats-store"
        self._processes = platform.processes
        self._locks = {name: asyncio.Lock() for name in platform.processes}
        self._purged = 0
        self.counts: Counter[tuple[str, str]] = Counter()
        self.unexpected_deaths: list[str] = []

    async def run(self, disasters: Sequence[Disaster]) -> None:
        """Each disaster at its time. Returns when every process runs again."""
        began = time.monotonic()
        watching = asyncio.create_task(self._watch())
        try:
            async with asyncio.TaskGroup() as group:
                for disaster in disasters:
                    await asyncio.sleep(max(0.0, began + disaster.at_seconds - time.monotonic()))
                    group.create_task(self._inflict(disaster))
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        if not watching.cancelled():
            watching.result()

    async def _inflict(self, disaster: Disaster) -> None:
        victim = disaster.victim
        async with self._locks[victim]:
            self.counts[disaster.action, victim] += 1
            match disaster.action:
                case "freeze":
                    await self._freeze(victim, disaster.lasts_seconds)
                case "silence":
                    ends = [proxy.silence_established() for proxy in self._supervisor.proxies[victim]]
                    await asyncio.sleep(disaster.lasts_seconds)
                    for end in ends:
                        end()
                case "cut off":
                    await self._cut_off(victim, disaster.lasts_seconds)
                case "purge":
                    await self._purge()
                case "fill disk":
                    await self._fill_disk(victim, disaster.lasts_seconds)
                case "shift clock":
                    await self._shift_clock(victim, disaster)
                case "kill" | "wipe" | "roll back":
                    await self._kill(victim)
                    await asyncio.sleep(disaster.lasts_seconds)
                    if victim == "nats":
                        await asyncio.to_thread(self._change_store, disaster.action)
                    await self._start(victim)

    async def _kill(self, victim: str) -> None:
        self._supervisor.kill(victim)
        await eventually(lambda: not self._supervisor.alive(victim), _EXIT_SECONDS, f"the exit of {victim}")

    async def _freeze(self, victim: str, seconds: float) -> None:
        processes = family(self._supervisor.pid(victim))
        signal_all(processes, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            signal_all(processes, signal.SIGCONT)

    async def _cut_off(self, victim: str, seconds: float) -> None:
        proxies = self._supervisor.proxies[victim]
        for proxy in proxies:
            proxy.silence()
        try:
            await asyncio.sleep(seconds)
        finally:
            for proxy in proxies:
                proxy.resume()

    async def _purge(self) -> None:
        """An operator's slip. Each stream has its turn."""
        broker = self._supervisor.wiring.nats
        spec = STREAMS[self._purged % len(STREAMS)]
        self._purged += 1
        client = await nats.connect(broker.url, user=ADMIN, password=broker.users[ADMIN], allow_reconnect=False)
        try:
            await client.jetstream().purge_stream(spec.name)
        finally:
            await client.close()

    async def _fill_disk(self, victim: str, seconds: float) -> None:
        disk = self._supervisor.disks[victim]
        await asyncio.to_thread(disk.fill)
        try:
            await asyncio.sleep(seconds)
        finally:
            disk.free()
        await eventually(disk.has_space, _EXIT_SECONDS, "space on the disk")
        # NATS writes no more until it is started again, as the local platform and Kubernetes do.
        broker = self._supervisor.wiring.nats
        if victim == "nats" and self._supervisor.alive(victim) and await asyncio.to_thread(_stores_nothing, broker):
            await self._kill(victim)
        if not self._supervisor.alive(victim):
            await self._start(victim)

    async def _shift_clock(self, victim: str, disaster: Disaster) -> None:
        """The service is started again on a host whose clock is wrong, and later on one whose clock is right."""
        clocks = self._supervisor.clock_seconds
        clocks[victim] = random.Random(disaster.at_seconds).choice(_CLOCK_SHIFTS)
        try:
            await self._kill(victim)
            await self._start_anew(victim)
            await asyncio.sleep(disaster.lasts_seconds)
        finally:
            del clocks[victim]
        await self._kill(victim)
        await self._start_anew(victim)

    def _change_store(self, action: Action) -> None:
        """Kill keeps a copy of the broker's store; roll back restores that copy; wipe leaves the store empty."""
        nats = self._supervisor.wiring.nats
        if action == "kill":
            shutil.rmtree(self._store_copy, ignore_errors=True)
            shutil.copytree(nats.store_directory, self._store_copy)
            return
        nats.wipe_store()
        if action == "roll back" and self._store_copy.exists():
            shutil.copytree(self._store_copy, nats.store_directory)

    async def _start(self, victim: str) -> None:
        await self._start_with_retries(victim, lambda: self._supervisor.revive(victim))

    async def _start_anew(self, victim: str) -> None:
        """With the environment that it has now."""
        await self._start_with_retries(victim, lambda: self._supervisor.upgrade(victim, Path(sys.executable)))

    async def _start_with_retries(self, victim: str, start: Callable[[], Awaitable[None]]) -> None:
        for _ in range(_MAX_FAILED_STARTS):
            try:
                await start()
            except ServerFailedError as error:
                say(f"{victim} did not start, trying again: {str(error).splitlines()[0]}")
            else:
                return
        raise ServerFailedError(f"{victim} does not start")

    async def _watch(self) -> None:
        """Restart and report every process that died without a disaster."""
        while True:
            for name, lock in self._locks.items():
                if not lock.locked() and not self._supervisor.alive(name):
                    log_file = Path(self._processes[name].log_file)
                    self.unexpected_deaths.append(f"{name}:\n{last_lines(log_file, 5)}")
                    async with lock:
                        await self._start(name)
            await asyncio.sleep(_WATCH_SECONDS)


def _stores_nothing(broker: NatsServer) -> bool:
    return broker.write_error() is not None


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it: of PostgreSQL every backend, each of which is a session of its own."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def signal_all(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """To every process that is still there."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
