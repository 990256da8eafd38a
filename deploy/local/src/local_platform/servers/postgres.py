"""PostgreSQL 18 from a wheel, on a port of its own, as root and as an ordinary user."""

import asyncio
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from local_platform.servers.binaries import (
    postgres_programs,
    reachable_by_others,
    temporary_directory,
    unprivileged_user,
)
from local_platform.servers.embedded import EmbeddedServer
from local_platform.servers.ports import free_port
from local_platform.servers.processes import ChildProcess, ServerFailedError

SUPERUSER = "postgres"
_START_TIMEOUT_SECONDS = 60.0
_STOP_TIMEOUT_SECONDS = 30.0
_MAX_CONNECTIONS = 300
_SHARED_MEMORY_IN_USE = "pre-existing shared memory block"
_BACKENDS_EXIT_SECONDS = 0.5
"""After a kill, a busy backend needs a moment to notice that its postmaster is gone."""

StopMode = Literal["fast", "immediate"]
_STOP_SIGNALS: Final[Mapping[StopMode, signal.Signals]] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class PostgresServer(EmbeddedServer):
    """One PostgreSQL server with SCRAM passwords and no unix socket, usable when it accepts connections.

    ``durable=False`` turns fsync off. Then the data survive ``kill``, because the operating system has them, but not
    a power cut. If we are root and the unprivileged user cannot reach ``directory``, the data lie in a temporary
    directory.
    """

    start_tries = 10

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        durable: bool = False,
        log_file: Path | None = None,
    ) -> None:
        super().__init__(directory, log_file or directory / "postgres.log")
        self.superuser_password = secrets.token_urlsafe(18)
        self._fixed_port = port
        self._port = port
        self._durable = durable
        self._data: Path | None = None

    @property
    def port(self) -> int:
        """The TCP port. Known after the first start."""
        assert self._port is not None, "the server was never started"
        return self._port

    def dsn(self, database: str = "postgres", user: str | None = None, password: str | None = None) -> str:
        """The connection string of a user, by default the superuser."""
        if user is None:
            user, password = SUPERUSER, self.superuser_password
        credentials = user if password is None else f"{user}:{quote(password, safe='')}"
        return f"postgresql://{credentials}@127.0.0.1:{self.port}/{database}"

    async def stop(self, mode: StopMode = "fast") -> None:
        """Stop. ``immediate`` is a crash that leaves recovery to the next start. The data stay."""
        await asyncio.to_thread(self.stop_blocking, mode)

    def stop_blocking(self, mode: StopMode = "fast") -> None:
        """:meth:`stop` for callers without an event loop."""
        if self._process is not None:
            self._process.stop(_STOP_SIGNALS[mode], _STOP_TIMEOUT_SECONDS)
            self._process = None

    def _prepare(self) -> None:
        if self._data is None:
            self._data = self._create_data()

    def _choose_ports(self) -> None:
        if self._port is None:
            self._port = self._fixed_port or free_port()

    def _forget_ports(self) -> None:
        self._port = None

    def _may_retry(self, error: ServerFailedError) -> bool:
        if _SHARED_MEMORY_IN_USE in str(error):
            time.sleep(_BACKENDS_EXIT_SECONDS)
            return True
        return super()._may_retry(error)

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
        options = (
            *("--pgdata", str(data), "--username", SUPERUSER, "--pwfile", str(password_file)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
            *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--no-sync"),
        )
        self._run_program("initdb", options, data, run_as)

    def _run_program(
        self,
        name: str,
        options: Sequence[str],
        directory: Path,
        run_as: tuple[int, int] | None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Run one of PostgreSQL's programs to its end. Raises ServerFailedError with what it said."""
        user, group = run_as or (None, None)
        completed = subprocess.run(
            [str(postgres_programs() / name), *options],
            capture_output=True,
            text=True,
            env={**_environment(), **(environment or {})},
            cwd=directory,
            user=user,
            group=group,
            extra_groups=[] if run_as else None,
            start_new_session=True,  # Ctrl-C reaches only the supervisor, which stops everything in order
            check=False,
        )
        if completed.returncode != 0:
            raise ServerFailedError(f"{name} failed\n{completed.stdout}{completed.stderr}")

    def _launch(self) -> ChildProcess:
        data = self._data
        assert data is not None
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(_MAX_CONNECTIONS),
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
            # An immediate shutdown frees the shared memory, and SIGKILL does not.
            orphan_signal=signal.SIGQUIT,
            run_as=unprivileged_user(),
        )
        process.wait_until(lambda: _accepts_connections(data, process.pid), _START_TIMEOUT_SECONDS)
        return process


def _accepts_connections(data: Path, pid: int) -> bool:
    """The postmaster writes its state into a file. Its process id tells it from the file of a killed server.

    A standby says so once it answers reads.
    """
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() in ("ready", "standby")


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
