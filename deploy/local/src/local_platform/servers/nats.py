"""NATS with JetStream from a wheel, with one restricted account and user for each service."""

import asyncio
import json
import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import httpx
import nats.errors

from contracts.permissions import HUB, PROVISIONER, SYSTEM
from local_platform.servers.binaries import program
from local_platform.servers.embedded import EmbeddedServer
from local_platform.servers.ports import free_port
from local_platform.servers.processes import ChildProcess, ServerFailedError
from messaging.provisioning import RefusedError, provision_server
from provisioning.broker import USERS, accounts
from service_runtime.authorities import trusted_authorities

ADMIN: Final = "admin"
"""A user of the hub without restrictions, for operators and tests."""

_START_TIMEOUT_SECONDS = 30.0


class NatsServer(EmbeddedServer):
    """One NATS server with JetStream on disk, usable when JetStream is healthy and has our streams and consumers.

    ``users`` maps user to password: every service in its account, the provisioner, and ``admin`` with all rights in the
    account that holds the streams. ``provisioned=False`` leaves out the streams and consumers. ``replicas`` is on how
    many servers of a cluster each stream is kept.
    ``sync_interval`` is the server's own setting. ``"always"`` syncs before each acknowledgement, None keeps the
    server's default of 2 minutes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        sync_interval: str | None = None,
        provisioned: bool = True,
        replicas: int = 1,
        log_file: Path | None = None,
    ) -> None:
        super().__init__(directory, log_file or directory / "nats.log")
        self.store_directory = directory / "jetstream"
        self.users = {name: secrets.token_urlsafe(18) for name in (*USERS, ADMIN)}
        self._sync_interval = sync_interval
        self._provisioned = provisioned
        self._replicas = replicas
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
        with httpx.Client(timeout=2.0, trust_env=False, verify=trusted_authorities()) as client:
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
        with httpx.Client(timeout=2.0, trust_env=False, verify=trusted_authorities()) as client:
            process.wait_until(lambda: _is_healthy(client, self.monitor_url), _START_TIMEOUT_SECONDS)
        if self._provisioned:
            try:
                self._provision()
            except (nats.errors.Error, RefusedError, OSError) as error:
                process.kill()
                raise ServerFailedError(f"nats runs, and its streams cannot be made: {error}") from error
        return process

    def _provision(self) -> None:
        # In a thread of its own, because the caller's may have an event loop.
        work = provision_server(
            self.url, self.users[PROVISIONER], replicas=self._replicas, wait_seconds=_START_TIMEOUT_SECONDS
        )
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, work).result()

    def _configuration(self) -> dict[str, object]:
        jetstream: dict[str, object] = {
            "store_dir": str(self.store_directory),
            # Streams reserve their max_bytes when they are created. The disk can be smaller.
            "max_file_store": 256 * 1024**3,
            "max_memory_store": 256 * 1024**2,
        }
        if self._sync_interval is not None:
            jetstream["sync_interval"] = self._sync_interval
        hub_and_services = accounts(self.users.__getitem__)
        hub_and_services[HUB]["users"].append({"user": ADMIN, "password": self.users[ADMIN]})
        return {
            "server_name": f"reelhouse-{self.port}",
            "host": "127.0.0.1",
            "port": self.port,
            "http": f"127.0.0.1:{self._monitor_port}",
            "jetstream": jetstream,
            "system_account": SYSTEM,
            "accounts": hub_and_services,
        }


def _is_healthy(client: httpx.Client, monitor_url: str) -> bool:
    try:
        return client.get(f"{monitor_url}/healthz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
