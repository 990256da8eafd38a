"""Who listens where and with which secrets: what the process table is filled in from."""

import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path

from local_platform.description import IdentityDescription
from local_platform.servers import NatsServer, PostgresServer, S3Server


@dataclass(kw_only=True)
class Wiring:
    """One platform's addresses and secrets. Secrets are made at random for each platform and die with it."""

    root: Path
    data_directory: Path
    postgres: PostgresServer
    nats: NatsServer
    s3: S3Server
    ports: dict[str, int]
    dsns: dict[str, str]
    identity: IdentityDescription
    workers: int
    _secrets: dict[str, str] = field(default_factory=dict)

    def url(self, listener: str) -> str:
        """HTTP address of a listener of the process table."""
        return f"http://127.0.0.1:{self.ports[listener]}"

    def secret(self, name: str) -> str:
        """The secret of that name: made at random when it is first asked for, the same ever after."""
        return self._secrets.setdefault(name, secrets.token_hex(24))


def python_module(module: str, *arguments: str) -> list[str]:
    """A command of ours, under this very interpreter."""
    return [sys.executable, "-m", module, *arguments]
