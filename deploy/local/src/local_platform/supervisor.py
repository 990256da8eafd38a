"""Starts the whole platform, restarts what dies, and stops everything without leaving anything behind."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from local_platform.console import LogFollower, red, say
from local_platform.describing import DATABASE, describe_platform
from local_platform.description import (
    FILE_NAME,
    PlatformDescription,
    ProcessDescription,
    platform_directory,
    write_platform,
)
from local_platform.guardian import GUARDIAN
from local_platform.locking import PlatformLock, remove_leftovers
from local_platform.migrations import migrate_all
from local_platform.process_table import STAGES, ProcessSpec, Stage, processes
from local_platform.processes import Supervised, TableProcess
from local_platform.restarts import BACKOFF, MAX_DEATHS, Deaths
from local_platform.servers.processes import ServerFailedError, last_lines
from local_platform.wiring import Wiring, wire
from provisioning.database import new_passwords, provision_database

_WATCH_SECONDS: Final = 0.2
_STORE_WATCH_SECONDS: Final = 3.0
_ENOUGH_DISK_BYTES: Final = 64 * 1024**2
"""With less, a restarted NATS would be full again at once."""


@dataclass(frozen=True, kw_only=True)
class PlatformOptions:
    """What a platform is started with.

    ``ports`` gives listeners a fixed port (``gateway``, ``postgres``, ``nats``, ...). ``environment`` adds settings to
    single processes (``{"billing": {"BILLING_LOG_LEVEL": "DEBUG"}}``), or to all replicas of a service. ``durable``
    makes PostgreSQL and NATS sync to disk before they acknowledge. ``replicas`` of each service run behind a proxy.
    ``python`` is the interpreter of another release: its migrations are run, and its services.
    """

    name: str = "local"
    root: Path = field(default_factory=Path.cwd)
    ports: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    workers: int = 1
    replicas: int = 1
    python: Path | None = None
    durable: bool = False
    follow_logs: bool = False


class Supervisor:
    """One platform: ``start`` it once, ``watch`` it while it runs, and always ``stop`` it.

    ``table`` is the whole process table, unless a part of it is enough.
    """

    def __init__(self, options: PlatformOptions, table: Sequence[ProcessSpec] | None = None) -> None:
        self.options = options
        self.directory = platform_directory(options.name, options.root)
        self.log_directory = self.directory / "logs"
        specs = processes(options.workers, options.replicas) if table is None else table
        self._specs = {spec.name: spec for spec in specs}
        self._lock = PlatformLock(self.directory)
        self._started_at = datetime.now(UTC)
        self._wiring: Wiring | None = None
        self._processes: dict[str, Supervised] = {}
        self._deaths = Deaths()
        self._follower: asyncio.Task[None] | None = None

    @property
    def wiring(self) -> Wiring:
        """Addresses and secrets, known once ``start`` has begun."""
        assert self._wiring is not None, "the platform was never started"
        return self._wiring

    async def start(self) -> PlatformDescription:
        """Start everything and return when all of it is ready.

        Raises PlatformAlreadyRunsError, PortInUseError, ValueError for wrong options, or ServerFailedError with the
        last lines of what died. After an error, and after a cancellation at any moment, ``stop`` cleans up.
        """
        self._lock.take()
        remove_leftovers(self.directory)
        shutil.rmtree(self.log_directory, ignore_errors=True)
        self.log_directory.mkdir(parents=True)
        options = self.options
        self._wiring = wire(
            options.name,
            options.root,
            [listener for spec in self._specs.values() for listener in spec.listeners],
            options.ports,
            workers=options.workers,
            durable=options.durable,
            log_directory=self.log_directory,
        )
        if options.follow_logs:
            self._follower = asyncio.create_task(LogFollower(self._followed_logs()).run())
        await _all_of([self._start_servers(), *self._start_stage("provider")])
        await _all_of(self._start_stage("service"))
        await _all_of(self._start_stage("worker"))
        return self._describe()

    async def watch(self) -> None:
        """Restart what dies, until cancelled. Raises ServerFailedError when a process keeps dying."""
        await _all_of([*(self._watch_one(name) for name in self._processes), self._watch_broker_store()])

    async def stop(self) -> None:
        """Stop everything in the opposite order of starting, and remove all temporary files."""
        for stage in reversed(STAGES):
            await self._stop_all(name for name in self._processes if self._stage_of(name) == stage)
        await self._stop_all(name for name in self._processes if self._stage_of(name) is None)
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait([self._follower])
        if self._wiring is not None:
            (self.directory / FILE_NAME).unlink(missing_ok=True)
            shutil.rmtree(self.wiring.data_directory, ignore_errors=True)
            GUARDIAN.keep(self.wiring.data_directory)
        self._lock.release()

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one process, by default SIGKILL, as the kernel does when memory runs out.

        ``watch`` restarts a process that died.
        """
        os.kill(self._processes[name].pid, number)

    def pid(self, name: str) -> int:
        """The process id of one process that runs."""
        return self._processes[name].pid

    def alive(self, name: str) -> bool:
        """Whether one process runs. A frozen process runs, too."""
        return self._processes[name].alive()

    async def revive(self, name: str) -> None:
        """Start a dead process without ``watch``. Raises ServerFailedError if it is not ready in time."""
        await self._processes[name].start()
        self._describe()

    async def end(self, name: str) -> int | None:
        """Stop one process as Kubernetes does, with SIGTERM first. Returns its exit code, 0 after an orderly stop."""
        process = self._processes[name]
        assert isinstance(process, TableProcess), f"{name} is a server"
        await process.stop()
        return process.exit_code

    async def upgrade(self, name: str, python: Path) -> None:
        """Start a service that has ended with the code of another release. Raises ServerFailedError."""
        await self._start_from_table(self._specs[name], python)
        self._describe()

    async def _start_servers(self) -> None:
        wiring = self.wiring
        await _all_of([self._start_database(), self._start_one("nats", wiring.nats), self._start_one("s3", wiring.s3)])

    async def _start_database(self) -> None:
        wiring = self.wiring
        await self._start_one("postgres", wiring.postgres)
        wiring.dsns.update(await provision_database(wiring.postgres.dsn(), DATABASE, new_passwords()))
        services = dict.fromkeys(spec.service for spec in self._specs.values() if spec.service is not None)
        await migrate_all(wiring.dsns, services, self.options.python)

    def _start_stage(self, stage: Stage) -> list[Coroutine[Any, Any, None]]:
        return [self._start_from_table(spec) for spec in self._specs.values() if spec.stage == stage]

    async def _start_from_table(self, spec: ProcessSpec, python: Path | None = None) -> None:
        command = list(spec.command(self.wiring))
        if spec.service is not None and (python or self.options.python):
            command[0] = str(python or self.options.python)
        process = TableProcess(
            spec.name,
            command=command,
            environment=self._environment(spec),
            directory=spec.directory(self.wiring),
            log_file=self.log_directory / f"{spec.name}.log",
            ready_url=self._ready_url(spec),
        )
        await self._start_one(spec.name, process)

    async def _start_one(self, name: str, process: Supervised) -> None:
        # Registered before it starts, so that it is stopped whatever happens meanwhile.
        self._processes[name] = process
        await process.start()

    async def _watch_one(self, name: str) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if not self._processes[name].alive():
                await self._restart(name)
                self._describe()

    async def _watch_broker_store(self) -> None:
        """Restart NATS when a write failed and there is space again: until then it looks alive and stores nothing."""
        nats = self.wiring.nats
        while True:
            await asyncio.sleep(_STORE_WATCH_SECONDS)
            error = await asyncio.to_thread(nats.write_error) if nats.alive() else None
            if error is not None and nats.free_bytes() >= _ENOUGH_DISK_BYTES:
                say(red("nats stores nothing since a write failed, and there is space: it is restarted"), error)
                # ``watch`` starts what died.
                self.kill("nats", signal.SIGTERM)

    async def _restart(self, name: str) -> None:
        process = self._processes[name]
        recent_deaths = self._deaths.add(name, time.monotonic())
        say(red(f"{name} died; its last lines:"), f"\n{last_lines(process.log_file, 6)}")
        if recent_deaths > MAX_DEATHS:
            raise ServerFailedError(f"{name} died {recent_deaths} times in a minute:\n{last_lines(process.log_file)}")
        await asyncio.sleep(BACKOFF.seconds(recent_deaths, name))
        try:
            await process.start()
        except ServerFailedError as error:
            # The next round counts one more death, and MAX_DEATHS ends it.
            say(red(f"{name} did not come back: {error}"))
        else:
            say(f"{name} runs again (pid {process.pid})")

    async def _stop_all(self, names: Iterable[str]) -> None:
        await asyncio.gather(*(self._processes[name].stop() for name in names))

    def _stage_of(self, name: str) -> Stage | None:
        spec = self._specs.get(name)
        return spec.stage if spec else None

    def _environment(self, spec: ProcessSpec) -> dict[str, str]:
        # The temporary files of a killed process are removed with the platform.
        temporary = {"TMPDIR": str(self.wiring.data_directory)}
        added = self.options.environment
        shared = {} if spec.service is None else added.get(spec.service, {})
        return {**temporary, **spec.environment(self.wiring), **shared, **added.get(spec.name, {})}

    def _ready_url(self, spec: ProcessSpec) -> str | None:
        return f"{self.wiring.url(spec.ready_listener)}{spec.ready_path}" if spec.ready_listener else None

    def _followed_logs(self) -> dict[str, Path]:
        # The S3 server logs every internal step. Its log is for faults, not for the terminal.
        names = ["postgres", "nats", *self._specs]
        return {name: self.log_directory / f"{name}.log" for name in names}

    def _describe(self) -> PlatformDescription:
        """Write the description of the platform as it is now, and return it."""
        description = describe_platform(
            self.options.name,
            self._started_at,
            self.wiring,
            self.log_directory,
            {name: self._environment(spec) for name, spec in self._specs.items()},
            {name: self._describe_process(name) for name in self._processes},
        )
        write_platform(description, self.directory)
        return description

    def _describe_process(self, name: str) -> ProcessDescription:
        process = self._processes[name]
        spec = self._specs.get(name)
        return ProcessDescription(
            pid=process.pid,
            log_file=str(process.log_file),
            address=self._address(name),
            ready_url=self._ready_url(spec) if spec else None,
            restarts=self._deaths.count(name),
        )

    def _address(self, name: str) -> str:
        wiring, spec = self.wiring, self._specs.get(name)
        if spec is not None:
            return wiring.url(spec.listeners[0]) if spec.listeners else ""
        return {
            "postgres": f"127.0.0.1:{wiring.postgres.port}/{DATABASE}",
            "nats": wiring.nats.url,
            "s3": wiring.s3.endpoint_url,
        }[name]


async def _all_of(steps: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run steps side by side. The first failure cancels the others and is raised itself, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
