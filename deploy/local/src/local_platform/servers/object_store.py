"""An S3 server (SeaweedFS, from a wheel) that takes the place of R2, with the same restricted identities."""

import json
import os
import secrets
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from local_platform.guardian import GUARDIAN
from local_platform.servers.binaries import program, temporary_directory
from local_platform.servers.embedded import EmbeddedServer
from local_platform.servers.ports import free_port
from local_platform.servers.processes import ChildProcess
from provisioning.buckets import BUCKETS

REGION: Final = "auto"

IDENTITIES: Final[Mapping[str, tuple[str, ...]]] = {
    "generation": ("Write:incoming", "Read:uploads"),
    "storage": ("Read:incoming", "Read:uploads", "Read:library", "Write:library", "List:library"),
    "gateway": ("Read:library", "Write:uploads"),
    "auditor": ("Read:library", "List:library"),
    "admin": ("Admin",),
}
"""The rights of each token: those of the four R2 tokens of production, and an administrator."""

_START_TIMEOUT_SECONDS = 60.0
_STOP_TIMEOUT_SECONDS = 0.5
"""Then it is killed. Acknowledged objects are in files by then; a stop in order would take 10 s."""

_LISTENERS = ("master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "s3", "s3_grpc")


class S3Server(EmbeddedServer):
    """One SeaweedFS server: master, volume, filer and S3 in one process.

    It is usable when the buckets exist and a signed write works. ``credentials`` maps identity to (access key, secret
    key).
    """

    def __init__(self, directory: Path, *, port: int | None = None, log_file: Path | None = None) -> None:
        super().__init__(directory, log_file or directory / "s3.log")
        self.region = REGION
        self.credentials = {name: (secrets.token_hex(10), secrets.token_urlsafe(30)) for name in IDENTITIES}
        self._fixed_port = port
        self._ports: dict[str, int] = {}
        self._socket_directory: Path | None = None

    @property
    def endpoint_url(self) -> str:
        """Base address; path-style."""
        return f"http://127.0.0.1:{self._ports['s3']}"

    def stop_blocking(self) -> None:
        """:meth:`stop` for callers without an event loop."""
        if self._process is not None:
            self._process.stop(signal.SIGTERM, _STOP_TIMEOUT_SECONDS)
            self._process = None
            self._remove_sockets()

    def kill(self) -> None:
        """SIGKILL. The objects stay."""
        super().kill()
        self._remove_sockets()

    def client(self, identity: str) -> Any:
        """A blocking boto3 client of one identity, for scripts and tests."""
        access_key, secret_key = self.credentials[identity]
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                connect_timeout=2,
                read_timeout=10,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                proxies={},
            ),
        )

    def _prepare(self) -> None:
        (self.directory / "objects").mkdir(parents=True, exist_ok=True)

    def _choose_ports(self) -> None:
        if not self._ports:
            self._ports = {name: free_port() for name in _LISTENERS}
            if self._fixed_port is not None:
                self._ports["s3"] = self._fixed_port

    def _forget_ports(self) -> None:
        self._ports = {}

    def _launch(self) -> ChildProcess:
        identities = self.directory / "identities.json"
        identities.touch(mode=0o600)
        identities.write_text(json.dumps(self._identities(), indent=2))
        process = ChildProcess(
            [program("weed"), "-logtostderr=true", "-v=0", *self._arguments(identities)],
            log_file=self.log_file,
            environment={
                "PATH": os.defpath,
                "HOME": str(self.directory),
                # One volume for each bucket at first, not seven: there is little to store.
                "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",
                "GOMAXPROCS": "1",
                # Fewer collections of a small heap: other work needs this machine.
                "GOGC": "400",
                "GOMEMLIMIT": "400MiB",
            },
            directory=self.directory,
        )
        admin = self.client("admin")
        writer = self.client("generation")
        process.wait_until(lambda: _is_usable(admin, writer), _START_TIMEOUT_SECONDS)
        return process

    def _arguments(self, identities: Path) -> list[str]:
        self._remove_sockets()
        # A socket path is limited to about 100 characters, and the directory of a test can be longer.
        self._socket_directory = sockets = temporary_directory("reelhouse-s3-")
        for path in self._sockets():
            GUARDIAN.remove(path)
        ports = self._ports
        return [
            "server",
            f"-dir={self.directory / 'objects'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={ports['master']}",
            f"-master.port.grpc={ports['master_grpc']}",
            "-master.volumeSizeLimitMB=256",
            "-master.telemetry=false",
            "-master.electionTimeout=1s",
            f"-volume.port={ports['volume']}",
            f"-volume.port.grpc={ports['volume_grpc']}",
            "-volume.max=200",
            "-volume.minFreeSpace=1",
            "-volume.preStopSeconds=0",
            "-filer",
            f"-filer.port={ports['filer']}",
            f"-filer.port.grpc={ports['filer_grpc']}",
            f"-filer.localSocket={sockets / 'filer.sock'}",
            "-s3",
            f"-s3.port={ports['s3']}",
            f"-s3.port.grpc={ports['s3_grpc']}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.localSocket={sockets / 's3.sock'}",
            f"-s3.config={identities}",
        ]

    def _remove_sockets(self) -> None:
        for path in self._sockets():
            path.unlink(missing_ok=True)
            GUARDIAN.keep(path)
        if self._socket_directory is not None:
            shutil.rmtree(self._socket_directory, ignore_errors=True)
            GUARDIAN.keep(self._socket_directory)
            self._socket_directory = None

    def _sockets(self) -> list[Path]:
        """The sockets whose path the server chooses itself."""
        names = ("master", "volume", "filer", "s3")
        return [Path(f"/tmp/seaweedfs-{name}-grpc-{self._ports[f'{name}_grpc']}.sock") for name in names]  # noqa: S108

    def _identities(self) -> dict[str, object]:
        return {
            "identities": [
                {
                    "name": name,
                    "credentials": [{"accessKey": self.credentials[name][0], "secretKey": self.credentials[name][1]}],
                    "actions": list(actions),
                }
                for name, actions in IDENTITIES.items()
            ]
        }


def _is_usable(admin: Any, writer: Any) -> bool:
    """Create missing buckets and write one object: a server that answers may still have no volume to write to."""
    try:
        present = {bucket["Name"] for bucket in admin.list_buckets()["Buckets"]}
        for bucket in BUCKETS:
            if bucket not in present:
                admin.create_bucket(Bucket=bucket)
        writer.put_object(Bucket="incoming", Key=".ready", Body=b"ready")
        admin.delete_object(Bucket="incoming", Key=".ready")
    except (BotoCoreError, ClientError):
        return False
    return True
