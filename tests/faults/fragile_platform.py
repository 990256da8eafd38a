"""A local platform that can also lose connections, disk space and the right time."""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from contracts.message import SERVICES, Service
from local_platform.console import say
from local_platform.process_table import ProcessSpec
from local_platform.supervisor import PlatformOptions, Supervisor
from tests.support.tcp_proxy import TcpProxy

FAKETIME: Final = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
"""Debian's package ``faketime``."""

_DISK_MIB: Final = 3072
_MIB: Final = 2**20
_ENOUGH_BYTES: Final = 64 * _MIB


class NoDiskError(Exception):
    """This machine does not let us make a file system."""


class SmallDisk:
    """A file system of its own in a file. Needs root, loop devices and mkfs.ext4. Raises NoDiskError."""

    def __init__(self, directory: Path, size_mib: int = _DISK_MIB) -> None:
        self.directory = directory
        self._balloon = directory / "balloon"
        image = directory.with_suffix(".image")
        directory.mkdir()
        with image.open("wb") as file:
            file.truncate(size_mib * _MIB)
        try:
            subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True, capture_output=True)
            subprocess.run(["mount", "-o", "loop", image, directory], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NoDiskError(str(error)) from error

    def fill(self) -> None:
        """Leave no space."""
        with self._balloon.open("wb") as balloon:
            size = 0
            for step in (64 * _MIB, _MIB, 4096):
                try:
                    while True:
                        os.posix_fallocate(balloon.fileno(), size, step)
                        size += step
                except OSError:
                    continue

    def free(self) -> None:
        """Give the space back."""
        self._balloon.unlink(missing_ok=True)

    def has_space(self) -> bool:
        """Whether a server can write."""
        state = os.statvfs(self.directory)
        return state.f_bavail * state.f_frsize >= _ENOUGH_BYTES

    def close(self) -> None:
        """Unmount it. Its server must be gone."""
        subprocess.run(["umount", self.directory], check=True)


class FragilePlatform(Supervisor):
    """Each service reaches PostgreSQL and NATS by proxies of its own; those two have small disks where root allows."""

    def __init__(self, options: PlatformOptions) -> None:
        super().__init__(options)
        self.proxies: dict[str, tuple[TcpProxy, TcpProxy]] = {}
        """Of each service: to PostgreSQL and to NATS."""
        self.clock_seconds: dict[str, int] = {}
        """How far a service's clock is from the right time when it is started next."""
        self.disks: dict[str, SmallDisk] = {}
        self._mounts = tempfile.TemporaryDirectory(prefix="reelhouse-disks-")

    async def _start_servers(self) -> None:
        wiring = self.wiring
        try:
            for name in ("nats", "postgres"):
                self.disks[name] = SmallDisk(Path(self._mounts.name) / name)
        except NoDiskError as error:
            say(f"NO DISK IS FILLED: {error}")
            self._unmount()
        else:
            os.chmod(self._mounts.name, 0o755)
            wiring.nats.store_directory = self.disks["nats"].directory / "jetstream"
            wiring.postgres.directory = self.disks["postgres"].directory
        await super()._start_servers()
        for service in SERVICES:
            self.proxies[service] = (
                TcpProxy(("127.0.0.1", wiring.postgres.port)),
                TcpProxy(("127.0.0.1", wiring.nats.port)),
            )
            for proxy in self.proxies[service]:
                await proxy.listen()

    def _environment(self, spec: ProcessSpec) -> dict[str, str]:
        environment = super()._environment(spec)
        if spec.service is None or spec.service not in self.proxies:
            return environment
        return environment | self._fragile(spec.service, environment)

    def _fragile(self, service: Service, environment: Mapping[str, str]) -> dict[str, str]:
        to_postgres, to_nats = self.proxies[service]
        url = f"{service.upper()}_DATABASE_URL"
        changed = {
            url: to_postgres.through(environment[url]),
            f"{service.upper()}_NATS_URL": f"nats://127.0.0.1:{to_nats.port}",
        }
        if seconds := self.clock_seconds.get(service):
            # Timeouts go by the monotonic clock, which no operator sets.
            changed |= {"LD_PRELOAD": str(FAKETIME), "FAKETIME": f"{seconds:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        return changed

    async def stop(self) -> None:
        """Stop everything, the disks last."""
        for proxies in self.proxies.values():
            for proxy in proxies:
                await proxy.close()
        for disk in self.disks.values():
            disk.free()
        try:
            await super().stop()
        finally:
            self._unmount()
            self._mounts.cleanup()

    def _unmount(self) -> None:
        while self.disks:
            self.disks.popitem()[1].close()
