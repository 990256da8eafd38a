"""The addresses and secrets of one platform: they fill in the process table."""

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from local_platform import identity
from local_platform.description import IdentityDescription
from local_platform.marking_credentials import MarkingCredentials, make_marking_credentials
from local_platform.servers import NatsServer, PostgresServer, S3Server
from local_platform.servers.binaries import temporary_directory
from local_platform.servers.ports import free_port, reserve_port

SERVERS: Final = ("postgres", "nats", "s3")
"""The listeners of the three servers, which are not in the process table."""


@dataclass(kw_only=True)
class Wiring:
    """The addresses and secrets of one platform. The secrets are random and die with the platform."""

    root: Path
    data_directory: Path
    postgres: PostgresServer
    nats: NatsServer
    s3: S3Server
    ports: dict[str, int]
    dsns: dict[str, str]
    identity: IdentityDescription
    workers: int
    marking: MarkingCredentials = field(default_factory=make_marking_credentials)
    _secrets: dict[str, str] = field(default_factory=dict)

    def url(self, listener: str) -> str:
        """HTTP address of a listener of the process table."""
        return f"http://127.0.0.1:{self.ports[listener]}"

    def secret(self, name: str) -> str:
        """The secret of that name. It is made at random when it is first asked for."""
        return self._secrets.setdefault(name, secrets.token_hex(24))


def wire(
    name: str,
    root: Path,
    listeners: Sequence[str],
    given_ports: Mapping[str, int],
    *,
    workers: int,
    durable: bool,
    log_directory: Path,
) -> Wiring:
    """Choose ports, create the data directory and a signing key, and prepare the servers. Starts nothing.

    Raises ValueError for a listener that does not exist or a port that is given twice, and PortInUseError.
    """
    ports = _ports(listeners, given_ports)
    data = temporary_directory(f"reelhouse-{name}-")
    data.chmod(0o711)  # If we are root, PostgreSQL runs as another user, which has to pass through.
    key = identity.new_private_key_pem()
    key_file = data / "identity.pem"
    key_file.touch(mode=0o600)
    key_file.write_text(key)
    return Wiring(
        root=root.resolve(),
        data_directory=data,
        postgres=PostgresServer(
            data / "postgres",
            port=given_ports.get("postgres"),
            durable=durable,
            log_file=log_directory / "postgres.log",
        ),
        nats=NatsServer(
            data / "nats",
            port=given_ports.get("nats"),
            sync_interval="always" if durable else None,
            log_file=log_directory / "nats.log",
        ),
        s3=S3Server(data / "s3", port=given_ports.get("s3"), log_file=log_directory / "s3.log"),
        ports=ports,
        dsns={},
        workers=workers,
        identity=identity.describe(f"http://127.0.0.1:{ports['identity']}", key),
    )


def _ports(listeners: Sequence[str], given: Mapping[str, int]) -> dict[str, int]:
    known = (*listeners, *SERVERS)
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"no listener is called {', '.join(unknown)}; there are {', '.join(known)}")
    if len(set(given.values())) < len(given):
        raise ValueError(f"a port is given twice: {', '.join(f'{name}={port}' for name, port in given.items())}")
    # Checked before anything starts: later, a process would die with a traceback, or the other program would answer.
    reserved = {listener: reserve_port(port, listener) for listener, port in given.items()}
    return {listener: reserved.get(listener) or free_port() for listener in listeners}


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
