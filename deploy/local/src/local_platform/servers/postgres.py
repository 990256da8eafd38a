"""PostgreSQL 18 from a wheel, on a port of its own, as root and as an ordinary user."""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from local_platform.guardian import GUARDIAN
from local_platform.servers.binaries import (
    postgres_programs,
    reachable_by_others,
    temporary_directory,
    unprivileged_user,
)
from local_platform.servers.ports import free_port
from local_platform.servers.processes import ChildProcess, ServerFailedError, port_was_taken, settled

SUPERUSER = "postgres"
_START_TIMEOUT_SECONDS = 60.0
_STOP_TIMEOUT_SECONDS = 30.0
_START_TRIES = 10
_SHARED_MEMORY_IN_USE = "pre-existing shared memory block"
_BACKENDS_LEAVE_SECONDS = 0.5
"""After a kill, a busy backend may need a moment to notice that its postmaster is gone."""

_STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class PostgresServer:
    """One PostgreSQL server on 127.0.0.1 with SCRAM passwords and no unix socket.

    ``durable=False`` turns fsync off: right for tests, wrong as soon as data should survive a power cut. (It does
    survive ``kill``: what was written stays in the operating system's cache.) ``directory`` gets the log; the data lie
    in it too, unless we are root and the unprivileged user cannot reach it: then they lie in a temporary directory.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        durable: bool = False,
        max_connections: int = 300,
        log_file: Path | None = None,
    ) -> None:
        self.directory = directory
        self.log_file = log_file or directory / "postgres.log"
        self.superuser_password = secrets.token_urlsafe(18)
        self._fixed_port = port
        self._port = port
        self._was_up = False
        self._durable = durable
        self._max_connections = max_connections
        self._data: Path | None = None
        self._process: ChildProcess | None = None

    @property
    def port(self) -> int:
        """The TCP port; known after the first start."""
        assert self._port is not None, "the server was never started"
        return self._port

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def dsn(self, database: str = "postgres", user: str | None = None, password: str | None = None) -> str:
        """Connection string; without ``user``, that of the superuser."""
        if user is None:
            user, password = SUPERUSER, self.superuser_password
        credentials = user if password is None else f"{user}:{quote(password, safe='')}"
        return f"postgresql://{credentials}@127.0.0.1:{self.port}/{database}"

    def alive(self) -> bool:
        """Whether the postmaster runs."""
        return self._process is not None and self._process.alive()

    async def start(self) -> None:
        """Create the data on first use, start, and return when connections are accepted.

        Raises ServerFailedError with the end of the log.
        """
        await settled(self.start_blocking)

    async def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop; ``immediate`` is a crash that leaves recovery to the next start. The data stay."""
        await asyncio.to_thread(self.stop_blocking, mode)

    async def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop and start on the same port with the same data."""
        await self.stop(mode)
        await self.start()

    def start_blocking(self) -> None:
        """:meth:`start` for callers without an event loop."""
        assert not self.alive(), "already running"
        if self._process is not None:
            self._process.kill()  # it has died; this reaps it
        if self._data is None:
            self._data = self._create_data()
        for attempt in range(1, _START_TRIES + 1):
            if self._port is None:
                self._port = free_port()
            try:
                self._launch(self._data)
            except ServerFailedError as error:
                if attempt == _START_TRIES:
                    raise
                if _SHARED_MEMORY_IN_USE in str(error):
                    time.sleep(_BACKENDS_LEAVE_SECONDS)
                elif self._fixed_port is None and not self._was_up and port_was_taken(error):
                    self._port = None
                else:
                    raise
            else:
                self._was_up = True
                return

    def stop_blocking(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """:meth:`stop` for callers without an event loop."""
        if self._process is not None:
            self._process.stop(_STOP_SIGNALS[mode], _STOP_TIMEOUT_SECONDS)
            self._process = None

    def kill(self) -> None:
        """SIGKILL to the postmaster, as the kernel does when memory runs out; its children notice and go."""
        assert self._process is not None, "the server does not run"
        self._process.kill()
        self._process = None

    def remove_data(self) -> None:
        """Delete the data of a stopped server."""
        assert not self.alive(), "stop the server first"
        if self._data is not None:
            shutil.rmtree(self._data, ignore_errors=True)
            GUARDIAN.keep(self._data)
            self._data = None

    def _create_data(self) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        run_as = unprivileged_user()
        if run_as is None or reachable_by_others(self.directory):
            data = self.directory / "data"
            data.mkdir(mode=0o700)
        else:
            data = temporary_directory("reelhouse-postgres-")
        password_file = data.with_name(f"{data.name}.password")
        password_file.touch(mode=0o600)
        password_file.write_text(self.superuser_password)
        if run_as:
            os.chown(data, *run_as)
            os.chown(password_file, *run_as)
        try:
            self._initialise(data, password_file, run_as)
        finally:
            password_file.unlink()
        return data

    def _initialise(self, data: Path, password_file: Path, run_as: tuple[int, int] | None) -> None:
        user, group = run_as or (None, None)
        completed = subprocess.run(
            [
                str(postgres_programs() / "initdb"),
                *("--pgdata", str(data), "--username", SUPERUSER, "--pwfile", str(password_file)),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
                *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--no-sync"),
            ],
            capture_output=True,
            text=True,
            env=_environment(),
            cwd=data,
            user=user,
            group=group,
            extra_groups=[] if run_as else None,
            start_new_session=True,  # Ctrl-C in the terminal is for us, who then stop things in order
            check=False,
        )
        if completed.returncode != 0:
            raise ServerFailedError(f"initdb failed\n{completed.stdout}{completed.stderr}")

    def _launch(self, data: Path) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(self._max_connections),
            "shared_buffers": "128MB",
            "max_wal_size": "2GB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %q%u@%d ",
            "fsync": "on" if self._durable else "off",
            "full_page_writes": "on" if self._durable else "off",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        process = ChildProcess(
            [postgres_programs() / "postgres", "-D", data, *settings],
            log_file=self.log_file,
            environment=_environment(),
            directory=data,
            # An immediate shutdown also frees the shared memory, which SIGKILL would leave behind.
            parting_signal=signal.SIGQUIT,
            run_as=unprivileged_user(),
        )
        process.wait_until(lambda: _accepts_connections(data, process.pid), _START_TIMEOUT_SECONDS)
        self._process = process


def _accepts_connections(data: Path, pid: int) -> bool:
    """The postmaster writes its state into a file; its first line tells a file left by a killed server from ours."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
