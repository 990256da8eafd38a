"""``platform.json``: one file with everything that scripts and tests need to use a running platform."""

import os
import tempfile
from datetime import datetime
from pathlib import Path

import msgspec

FILE_NAME = "platform.json"
PLATFORMS_DIRECTORY = Path(".reelhouse")


class PlatformNotRunningError(RuntimeError):
    """No platform of that name runs."""


class PostgresDescription(msgspec.Struct, kw_only=True):
    """``dsns`` maps role (``billing``, ``billing_migrator``, ...) to connection string."""

    database: str
    superuser_dsn: str
    dsns: dict[str, str]


class NatsDescription(msgspec.Struct, kw_only=True):
    """``users`` maps user to password; ``admin`` may do anything."""

    url: str
    monitor_url: str
    users: dict[str, str]


class S3Credentials(msgspec.Struct, kw_only=True):
    """One identity of the object store."""

    access_key: str
    secret_key: str


class S3Description(msgspec.Struct, kw_only=True):
    """``credentials`` maps identity (``generation``, ``storage``, ``gateway``, ``auditor``, ``admin``) to its keys."""

    endpoint_url: str
    region: str
    buckets: list[str]
    credentials: dict[str, S3Credentials]


class IdentityDescription(msgspec.Struct, kw_only=True):
    """The development identity provider; ``local_platform.identity.sign_token`` signs with its key."""

    issuer: str
    audience: str
    jwks_url: str
    key_id: str
    private_key_pem: str


class ProcessDescription(msgspec.Struct, kw_only=True):
    """One process of the platform. ``restarts`` counts how often it died and was started again."""

    pid: int
    log_file: str
    address: str
    ready_url: str | None = None
    restarts: int = 0


class PlatformDescription(msgspec.Struct, kw_only=True):
    """One running platform. It contains secrets, so only the owner can read the file (mode 0600).

    ``urls`` maps a listener (``gateway``, ``generation``, ``runpod``, ``identity``, ...) to its HTTP address.
    ``environments`` maps a process to its settings, with which the commands of a service can be run by hand.
    """

    name: str
    started_at: datetime
    supervisor_pid: int
    data_directory: str
    log_directory: str
    urls: dict[str, str]
    postgres: PostgresDescription
    nats: NatsDescription
    s3: S3Description
    identity: IdentityDescription
    environments: dict[str, dict[str, str]]
    processes: dict[str, ProcessDescription]


def platform_directory(name: str, root: Path | None = None) -> Path:
    """Where the platform ``name`` keeps its file, its lock and its logs; ``root`` defaults to the current directory."""
    return (root or Path.cwd()).resolve() / PLATFORMS_DIRECTORY / name


def read_platform(name: str, root: Path | None = None) -> PlatformDescription:
    """The description of the running platform ``name``. Raises PlatformNotRunningError."""
    path = platform_directory(name, root) / FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=PlatformDescription)
    except FileNotFoundError as error:
        raise PlatformNotRunningError(f"no platform {name!r} runs here (no {path}): make up NAME={name}") from error


def write_platform(description: PlatformDescription, directory: Path) -> None:
    """Replace the file in one step, so that a reader sees the old or the new one. Only its owner can read it."""
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=".platform-")
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(description), indent=2))
    Path(temporary).replace(directory / FILE_NAME)
