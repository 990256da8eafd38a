"""NATS with JetStream from a wheel, with one restricted user for each service."""

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import NotRequired, TypedDict

import httpx

from contracts.message import SERVICES
from contracts.permissions import permissions_of
from local_platform.servers.binaries import program
from local_platform.servers.embedded import EmbeddedServer
from local_platform.servers.ports import free_port
from local_platform.servers.processes import ChildProcess

ADMIN = "admin"
"""A user without restrictions, for operators and tests."""

_START_TIMEOUT_SECONDS = 30.0


class NatsServer(EmbeddedServer):
    """One NATS server with JetStream on disk, usable when JetStream is healthy.

    ``users`` maps user to password: every service with its permissions from the registry, and ``admin`` with all.
    ``sync_interval`` is the server's own setting. ``"always"`` syncs before each acknowledgement, None keeps the
    server's default of 2 minutes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        sync_interval: str | None = None,
        log_file: Path | None = None,
    ) -> None:
        super().__init__(directory, log_file or directory / "nats.log")
        self.store_directory = directory / "jetstream"
        self.users = {name: secrets.token_urlsafe(18) for name in (*SERVICES, ADMIN)}
        self._sync_interval = sync_interval
        self._fixed_port = port
        self._port = port
        self._monitor_port: int | None = None

    @property
    def port(self) -> int:
        """The TCP port. Known after the first start."""
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

    def wipe_store(self) -> None:
        """Delete every stream, consumer and message of a stopped server: broker amnesia."""
        assert not self.alive(), "stop the server first"
        shutil.rmtree(self.store_directory, ignore_errors=True)

    def write_error(self) -> str | None:
        """What the server says of a write that failed, a full disk mostly: it writes no more until it is restarted."""
        with httpx.Client(timeout=2.0, trust_env=False) as client:
            try:
                answer = client.get(f"{self.monitor_url}/healthz").text
            except httpx.TransportError:
                return None
        return answer if "write error" in answer else None

    def free_bytes(self) -> int:
        """What is left on the disk of the store."""
        return shutil.disk_usage(self.directory).free

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)

    def _choose_ports(self) -> None:
        if self._monitor_port is None:
            self._port = self._fixed_port or free_port()
            self._monitor_port = free_port()

    def _forget_ports(self) -> None:
        self._monitor_port = None

    def _launch(self) -> ChildProcess:
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
        return process

    def _configuration(self) -> dict[str, object]:
        jetstream: dict[str, object] = {
            "store_dir": str(self.store_directory),
            # Streams reserve their max_bytes when they are created. The disk can be smaller.
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


class NatsPermissions(TypedDict):
    """The subjects that a user may publish and subscribe to."""

    publish: list[str]
    subscribe: list[str]


class NatsUser(TypedDict):
    """One entry of NATS's ``authorization.users``. Without permissions, a user may do anything."""

    user: str
    password: str
    permissions: NotRequired[NatsPermissions]


def nats_user(name: str, password: str) -> NatsUser:
    """A user, with the permissions of the service of that name, if there is one."""
    user: NatsUser = {"user": name, "password": password}
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
