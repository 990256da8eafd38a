"""Disasters for the processes of a platform, by a schedule that one seed reproduces."""

import asyncio
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from contracts.message import SERVICES
from local_platform.console import say
from local_platform.description import PlatformDescription
from local_platform.servers.processes import ServerFailedError, last_lines
from local_platform.supervisor import Supervisor
from tests.support.waiting import eventually

Action = Literal["kill", "freeze", "wipe", "roll back"]

_WATCH_SECONDS: Final = 0.2
_MAX_FAILED_STARTS: Final = 5
_EXIT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Disaster:
    """``victim`` is down or frozen for ``lasts_seconds`` from ``at_seconds`` on, counted from the beginning."""

    at_seconds: float
    action: Action
    victim: str
    lasts_seconds: float


@dataclass(frozen=True, slots=True)
class _Kind:
    action: Action
    victims: tuple[str, ...]
    weight: float
    longest_seconds: float


_KINDS: Final = (
    _Kind("kill", SERVICES, 12, 1.0),
    _Kind("kill", ("nats",), 2, 2.0),
    _Kind("kill", ("postgres",), 2, 2.0),
    _Kind("kill", ("s3",), 1, 2.0),
    # Longer than every lease: a process that wakes up must find that another one has its work.
    _Kind("freeze", SERVICES, 2, 35.0),
    _Kind("wipe", ("nats",), 0.5, 1.0),
    _Kind("roll back", ("nats",), 0.5, 1.0),
)


def schedule(seed: int, count: int, per_second: float) -> list[Disaster]:
    """``count`` disasters at random moments, ``per_second`` on average: the same for the same arguments."""
    source = random.Random(seed)
    at, disasters = 0.0, []
    for _ in range(count):
        at += source.expovariate(per_second)
        [kind] = source.choices(_KINDS, [kind.weight for kind in _KINDS])
        victim = source.choice(kind.victims)
        disasters.append(Disaster(at, kind.action, victim, source.uniform(0.0, kind.longest_seconds)))
    return disasters


class Faults(Protocol):
    """What was done to a platform: how often which action hit which victim, and which processes died of themselves."""

    counts: Counter[tuple[str, str]]
    unexpected_deaths: list[str]


class DisasterRunner:
    """Runs a schedule against a platform that nothing else restarts. Disasters of one process happen one by one."""

    def __init__(self, supervisor: Supervisor, platform: PlatformDescription, copies: Path) -> None:
        self._supervisor = supervisor
        self._store_copy = copies / "nats-store"
        self._processes = platform.processes
        self._locks = {name: asyncio.Lock() for name in platform.processes}
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
            if disaster.action == "freeze":
                self._supervisor.kill(victim, signal.SIGSTOP)
                try:
                    await asyncio.sleep(disaster.lasts_seconds)
                finally:
                    self._supervisor.kill(victim, signal.SIGCONT)
                return
            self._supervisor.kill(victim)
            await eventually(lambda: not self._supervisor.alive(victim), _EXIT_SECONDS, f"the exit of {victim}")
            await asyncio.sleep(disaster.lasts_seconds)
            if victim == "nats":
                await asyncio.to_thread(self._change_store, disaster.action)
            await self._start(victim)

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
        for _ in range(_MAX_FAILED_STARTS):
            try:
                await self._supervisor.revive(victim)
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
