"""Starts the whole platform, watches it, and stops it without leaving anything behind."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local_platform import identity
from local_platform.console import LogFollower, red, say
from local_platform.description import (
    FILE_NAME,
    NatsDescription,
    PlatformDescription,
    PostgresDescription,
    ProcessDescription,
    S3Credentials,
    S3Description,
    Status,
    platform_directory,
    write_platform,
)
from local_platform.guardian import GUARDIAN
from local_platform.locking import PlatformLock, remove_leftovers
from local_platform.migrations import migrate_all
from local_platform.process_table import STAGES, ProcessSpec, Stage, processes
from local_platform.processes import Supervised, TableProcess
from local_platform.servers import NatsServer, PostgresServer, S3Server
from local_platform.servers.binaries import temporary_directory
from local_platform.servers.ports import free_port
from local_platform.servers.processes import ServerFailedError, last_lines
from local_platform.wiring import Wiring
from provisioning.buckets import BUCKETS
from provisioning.database import new_passwords, provision_database

DATABASE = "reelhouse"
_WATCH_SECONDS = 0.2
_FIRST_BACKOFF_SECONDS = 0.25
_LONGEST_BACKOFF_SECONDS = 8.0
_DEATHS_WINDOW_SECONDS = 60.0
_MOST_DEATHS = 10
"""A process that dies more often than this in the window will not get better by being started again."""


@dataclass(frozen=True, kw_only=True)
class PlatformOptions:
    """What a platform is started with.

    ``ports`` gives listeners a fixed port (``gateway``, ``postgres``, ``nats``, ...); ``environment`` adds settings to
    single processes (``{"billing": {"BILLING_LOG_LEVEL": "DEBUG"}}``); ``durable`` makes PostgreSQL and NATS sync to
    disk before they acknowledge.
    """

    name: str = "local"
    root: Path = field(default_factory=Path.cwd)
    ports: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    workers: int = 1
    durable: bool = False
    follow_logs: bool = False


class Supervisor:
    """One platform: ``start`` once, ``watch`` as long as it shall run, and always ``stop``.

    ``table`` is the whole process table unless a part of it is enough.
    """

    def __init__(self, options: PlatformOptions, table: Sequence[ProcessSpec] | None = None) -> None:
        self.options = options
        self.directory = platform_directory(options.name, options.root)
        self.log_directory = self.directory / "logs"
        self._specs = {spec.name: spec for spec in (processes(options.workers) if table is None else table)}
        self._lock = PlatformLock(self.directory)
        self._started_at = datetime.now(UTC)
        self._wiring: Wiring | None = None
        self._processes: dict[str, Supervised] = {}
        self._deaths: dict[str, list[float]] = {}
        self._follower: asyncio.Task[None] | None = None

    @property
    def wiring(self) -> Wiring:
        """Addresses and secrets; known once ``start`` has begun."""
        assert self._wiring is not None, "the platform was never started"
        return self._wiring

    async def start(self) -> PlatformDescription:
        """Start everything and return when all of it is ready.

        Raises PlatformAlreadyRunsError, or ServerFailedError with the last lines of what died. After an error, and
        after a cancellation at any moment, ``stop`` cleans up.
        """
        self._lock.take()
        remove_leftovers(self.directory)
        shutil.rmtree(self.log_directory, ignore_errors=True)
        self.log_directory.mkdir(parents=True)
        self._wiring = self._wire()
        if self.options.follow_logs:
            self._follower = asyncio.create_task(LogFollower(self._followed_logs()).run())
        await _all_of([self._start_servers(), *self._start_stage("provider")])
        await _all_of(self._start_stage("service"))
        await _all_of(self._start_stage("worker"))
        self._write("running")
        return self.describe("running")

    async def watch(self) -> None:
        """Start again what dies, until cancelled. Raises ServerFailedError when one keeps dying."""
        await _all_of([self._watch_one(name) for name in self._processes])

    async def stop(self) -> None:
        """Stop everything in the opposite order of starting, and remove all that was temporary."""
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
        self._lock.give_back()

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """SIGKILL one process, as the kernel does when memory runs out, or signal it otherwise.

        What has died ``watch`` starts again.
        """
        os.kill(self._processes[name].pid, number)

    def alive(self, name: str) -> bool:
        """Whether one process runs, a frozen one included."""
        return self._processes[name].alive()

    async def revive(self, name: str) -> None:
        """Start a dead process without ``watch``. Raises ServerFailedError if it is not ready in time."""
        await self._processes[name].start()
        self._write("running")

    def describe(self, status: Status) -> PlatformDescription:
        """What ``platform.json`` says."""
        wiring = self.wiring
        return PlatformDescription(
            name=self.options.name,
            status=status,
            started_at=self._started_at,
            supervisor_pid=os.getpid(),
            data_directory=str(wiring.data_directory),
            log_directory=str(self.log_directory),
            urls={listener: wiring.url(listener) for listener in wiring.ports},
            postgres=PostgresDescription(
                database=DATABASE, superuser_dsn=wiring.postgres.dsn(DATABASE), dsns=wiring.dsns
            ),
            nats=NatsDescription(
                url=wiring.nats.url, monitor_url=wiring.nats.monitor_url, users=dict(wiring.nats.users)
            ),
            s3=S3Description(
                endpoint_url=wiring.s3.endpoint_url,
                region=wiring.s3.region,
                buckets=list(BUCKETS),
                credentials={
                    name: S3Credentials(access_key=access_key, secret_key=secret_key)
                    for name, (access_key, secret_key) in wiring.s3.credentials.items()
                },
            ),
            identity=wiring.identity,
            environments={name: self._environment(spec) for name, spec in self._specs.items()},
            processes={name: self._describe_process(name) for name in self._processes},
        )

    def _describe_process(self, name: str) -> ProcessDescription:
        process = self._processes[name]
        spec = self._specs.get(name)
        return ProcessDescription(
            pid=process.pid,
            log_file=str(process.log_file),
            address=self._address(name),
            ready_url=self._ready_url(spec) if spec else None,
            restarts=len(self._deaths.get(name, ())),
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

    def _wire(self) -> Wiring:
        data = temporary_directory(f"reelhouse-{self.options.name}-")
        data.chmod(0o711)  # PostgreSQL runs as another user when we are root, and has to get through
        given = self.options.ports
        listeners = [listener for spec in self._specs.values() for listener in spec.listeners]
        ports = {listener: given.get(listener) or free_port() for listener in listeners}
        unknown = set(given) - set(ports) - {"postgres", "nats", "s3"}
        if unknown:
            raise ValueError(f"no listener is called {', '.join(sorted(unknown))}; there are {', '.join(ports)}")
        key = identity.new_private_key_pem()
        key_file = data / "identity.pem"
        key_file.touch(mode=0o600)
        key_file.write_text(key)
        return Wiring(
            root=self.options.root.resolve(),
            data_directory=data,
            postgres=PostgresServer(
                data / "postgres",
                port=given.get("postgres"),
                durable=self.options.durable,
                log_file=self.log_directory / "postgres.log",
            ),
            nats=NatsServer(
                data / "nats",
                port=given.get("nats"),
                sync_interval="always" if self.options.durable else None,
                log_file=self.log_directory / "nats.log",
            ),
            s3=S3Server(data / "s3", port=given.get("s3"), log_file=self.log_directory / "s3.log"),
            ports=ports,
            dsns={},
            workers=self.options.workers,
            identity=identity.describe(f"http://127.0.0.1:{ports['identity']}", key),
        )

    async def _start_servers(self) -> None:
        wiring = self.wiring
        await _all_of([self._start_database(), self._start_one("nats", wiring.nats), self._start_one("s3", wiring.s3)])

    async def _start_database(self) -> None:
        wiring = self.wiring
        await self._start_one("postgres", wiring.postgres)
        wiring.dsns.update(await provision_database(wiring.postgres.dsn(), DATABASE, new_passwords()))
        services = [spec.name for spec in self._specs.values() if spec.stage == "service"]
        if services:
            await migrate_all(wiring.dsns, services)

    def _start_stage(self, stage: Stage) -> list[Coroutine[Any, Any, None]]:
        return [self._start_from_table(spec) for spec in self._specs.values() if spec.stage == stage]

    async def _start_from_table(self, spec: ProcessSpec) -> None:
        process = TableProcess(
            spec.name,
            command=spec.command(self.wiring),
            environment=self._environment(spec),
            directory=spec.directory(self.wiring),
            log_file=self.log_directory / f"{spec.name}.log",
            ready_url=self._ready_url(spec),
        )
        await self._start_one(spec.name, process)

    async def _start_one(self, name: str, process: Supervised) -> None:
        # Registered first: whatever happens while it starts, it will be stopped.
        self._processes[name] = process
        await process.start()

    async def _watch_one(self, name: str) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if not self._processes[name].alive():
                await self._start_again(name)
                self._write("running")

    async def _start_again(self, name: str) -> None:
        process, now = self._processes[name], time.monotonic()
        deaths = self._deaths.setdefault(name, [])
        deaths.append(now)
        recent = sum(1 for death in deaths if death > now - _DEATHS_WINDOW_SECONDS)
        say(red(f"{name} died; its last lines:") + f"\n{last_lines(process.log_file, 6)}")
        if recent > _MOST_DEATHS:
            raise ServerFailedError(f"{name} died {recent} times in a minute:\n{last_lines(process.log_file)}")
        backoff = min(_FIRST_BACKOFF_SECONDS * 2 ** (recent - 1), _LONGEST_BACKOFF_SECONDS)
        await asyncio.sleep(backoff)
        try:
            await process.start()
        except ServerFailedError as error:
            # Counted as one more death in the next round: the bound above ends it.
            say(red(f"{name} did not come back: {error}"))
        else:
            say(f"{name} runs again (pid {process.pid})")

    async def _stop_all(self, names: Iterable[str]) -> None:
        await asyncio.gather(*(self._processes[name].stop() for name in names))

    def _stage_of(self, name: str) -> Stage | None:
        spec = self._specs.get(name)
        return spec.stage if spec else None

    def _environment(self, spec: ProcessSpec) -> dict[str, str]:
        # Temporary files of a process that was killed go with the platform, too.
        temporary = {"TMPDIR": str(self.wiring.data_directory)}
        return {**temporary, **spec.environment(self.wiring), **self.options.environment.get(spec.name, {})}

    def _ready_url(self, spec: ProcessSpec) -> str | None:
        return f"{self.wiring.url(spec.ready_listener)}{spec.ready_path}" if spec.ready_listener else None

    def _followed_logs(self) -> dict[str, Path]:
        # The S3 server tells every internal step: its log is for when something is wrong, not for the terminal.
        names = ["postgres", "nats", *self._specs]
        return {name: self.log_directory / f"{name}.log" for name in names}

    def _write(self, status: Status) -> None:
        write_platform(self.describe(status), self.directory)


async def _all_of(steps: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run steps side by side; the first failure cancels the others, and is raised itself rather than in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
