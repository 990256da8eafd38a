"""NATS with JetStream from a wheel, with one restricted user per service."""

import asyncio
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from contracts.message import SERVICES
from contracts.permissions import permissions_of
from local_platform.servers.binaries import program
from local_platform.servers.ports import free_port
from local_platform.servers.processes import ChildProcess, ServerFailedError, port_was_taken, settled

ADMIN = "admin"
"""A user without restrictions, for operators and tests."""

_START_TIMEOUT_SECONDS = 30.0
_START_TRIES = 3


class NatsServer:
    """One NATS server on 127.0.0.1 with JetStream on disk.

    ``users`` maps user to password; by default every service and ``admin`` with random passwords. A user that is named
    like a service has that service's permissions from the registry, any other has all. ``sync_interval`` is the
    server's own setting: ``"always"`` syncs before each acknowledgement; None keeps the server's default of 2 minutes.
    """

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        users: Mapping[str, str] | None = None,
        sync_interval: str | None = None,
        log_file: Path | None = None,
    ) -> None:
        self.directory = directory
        self.log_file = log_file or directory / "nats.log"
        self.store_directory = directory / "jetstream"
        self.users = dict(users or {name: secrets.token_urlsafe(18) for name in (*SERVICES, ADMIN)})
        self._sync_interval = sync_interval
        self._fixed_port = port
        self._port = port
        self._monitor_port: int | None = None
        self._was_up = False
        self._process: ChildProcess | None = None

    @property
    def port(self) -> int:
        """The TCP port; known after the first start."""
        assert self._port is not None, "the server was never started"
        return self._port

    @property
    def url(self) -> str:
        """Address without credentials."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        """Address of the HTTP monitor (``/healthz``, ``/varz``, ``/jsz``)."""
        return f"http://127.0.0.1:{self._monitor_port}"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def alive(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.alive()

    async def start(self) -> None:
        """Start, and return when JetStream is healthy. Raises ServerFailedError with the end of the log."""
        await settled(self.start_blocking)

    async def stop(self) -> None:
        """Stop in order; the store stays."""
        await asyncio.to_thread(self.stop_blocking)

    async def restart(self) -> None:
        """Stop and start on the same port with the same store."""
        await self.stop()
        await self.start()

    def start_blocking(self) -> None:
        """:meth:`start` for callers without an event loop."""
        assert not self.alive(), "already running"
        if self._process is not None:
            self._process.kill()  # it has died; this reaps it
        self.directory.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _START_TRIES + 1):
            if self._monitor_port is None:
                self._port = self._fixed_port or free_port()
                self._monitor_port = free_port()
            try:
                self._launch()
            except ServerFailedError as error:
                # Once clients know the port, another is no help to them.
                if self._was_up or not port_was_taken(error) or attempt == _START_TRIES:
                    raise
                self._monitor_port = None
            else:
                self._was_up = True
                return

    def stop_blocking(self) -> None:
        """:meth:`stop` for callers without an event loop."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """SIGKILL; the store stays as it was at that moment."""
        assert self._process is not None, "the server does not run"
        self._process.kill()
        self._process = None

    def wipe_store(self) -> None:
        """Forget every stream, consumer and message of a stopped server: broker amnesia."""
        assert not self.alive(), "stop the server first"
        shutil.rmtree(self.store_directory, ignore_errors=True)

    def _launch(self) -> None:
        configuration = self.directory / "nats.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(json.dumps(self._configuration(), indent=2))
        process = ChildProcess(
            [program("nats-server"), "--config", configuration],
            log_file=self.log_file,
            environment={"PATH": os.defpath, "HOME": str(self.directory), "GOMAXPROCS": "1", "GOGC": "400"},
            directory=self.directory,
        )
        with httpx.Client(timeout=2.0, trust_env=False) as client:
            process.wait_until(lambda: _is_healthy(client, self.monitor_url), _START_TIMEOUT_SECONDS)
        self._process = process

    def _configuration(self) -> dict[str, Any]:
        jetstream: dict[str, Any] = {
            "store_dir": str(self.store_directory),
            # Streams reserve their max_bytes when they are created; the disk need not be that large.
            "max_file_store": 256 * 1024**3,
            "max_memory_store": 256 * 1024**2,
        }
        if self._sync_interval is not None:
            jetstream["sync_interval"] = self._sync_interval
        return {
            "server_name": f"reelhouse-{self.port}",
            "host": "127.0.0.1",
            "port": self.port,
            "http": f"127.0.0.1:{self._monitor_port}",
            "jetstream": jetstream,
            "authorization": {"users": [nats_user(name, password) for name, password in self.users.items()]},
        }


def nats_user(name: str, password: str) -> dict[str, Any]:
    """One entry of NATS's ``authorization.users``, with the permissions of the service of that name."""
    user: dict[str, Any] = {"user": name, "password": password}
    for service in SERVICES:
        if service == name:
            permissions = permissions_of(service)
            user["permissions"] = {"publish": list(permissions.publish), "subscribe": list(permissions.subscribe)}
    return user


def _is_healthy(client: httpx.Client, monitor_url: str) -> bool:
    try:
        return client.get(f"{monitor_url}/healthz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
