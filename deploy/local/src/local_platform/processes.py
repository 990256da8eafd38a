"""A supervised process: its start from the process table, its readiness, its stop."""

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import httpx

from local_platform.servers.processes import ChildProcess, ServerFailedError, last_lines
from service_runtime.authorities import trusted_authorities

_POLL_SECONDS = 0.05
_START_TIMEOUT_SECONDS = 60.0
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR")


class Supervised(Protocol):
    """What the supervisor needs of a process. The embedded servers have it, too."""

    log_file: Path

    @property
    def pid(self) -> int:
        """Process id while it runs."""

    def alive(self) -> bool:
        """Whether it runs."""

    async def start(self) -> None:
        """Start, and return when it is ready. Raises ServerFailedError."""

    async def stop(self) -> None:
        """Stop in order, and kill it if that takes too long. Harmless if it does not run."""


class TableProcess:
    """The process of one line of the process table."""

    def __init__(
        self,
        name: str,
        *,
        command: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        log_file: Path,
        ready_url: str | None,
        stop_timeout_seconds: float = 15.0,
    ) -> None:
        self.name = name
        self.log_file = log_file
        self.ready_url = ready_url
        self._stop_timeout_seconds = stop_timeout_seconds
        self._command = command
        self._environment = {
            **{key: os.environ[key] for key in _INHERITED if key in os.environ},
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self._directory = directory
        self._process: ChildProcess | None = None

    @property
    def pid(self) -> int:
        """Process id of the last start."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How its last run ended: None while it runs, and minus the number of the signal that killed it."""
        return None if self._process is None else self._process.exit_code

    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.alive()

    async def start(self) -> None:
        """Start it and return when its ready URL answers without a server error."""
        if self._process is not None:
            self._process.kill()  # It is dead; this reaps it and ends its own children.
        self._process = ChildProcess(
            self._command, log_file=self.log_file, environment=self._environment, directory=self._directory
        )
        if self.ready_url is not None:
            await self._ready(self._process, self.ready_url)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if it does not end in time."""
        if self._process is not None:
            await asyncio.to_thread(self._process.stop, signal.SIGTERM, self._stop_timeout_seconds)

    async def _ready(self, process: ChildProcess, url: str) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        async with httpx.AsyncClient(timeout=2.0, trust_env=False, verify=trusted_authorities()) as client:
            answer = "no answer"
            while process.alive():
                try:
                    response = await client.get(url)
                except httpx.TransportError as error:
                    answer = type(error).__name__
                else:
                    if not response.is_server_error:
                        return
                    answer = f"{response.status_code} {response.text[:300]}"
                if time.monotonic() > deadline:
                    break
                await asyncio.sleep(_POLL_SECONDS)
        reason = f"was not ready after {_START_TIMEOUT_SECONDS:.0f} s ({answer})" if process.alive() else "died"
        raise ServerFailedError(f"{self.name} {reason}; the end of {self.log_file}:\n{last_lines(self.log_file)}")
