"""Builds the description of a running platform from its wiring and its processes."""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from local_platform.description import (
    NatsDescription,
    PlatformDescription,
    PostgresDescription,
    ProcessDescription,
    S3Credentials,
    S3Description,
)
from local_platform.wiring import Wiring
from provisioning.buckets import BUCKETS

DATABASE: Final = "reelhouse"


def describe_platform(
    name: str,
    started_at: datetime,
    wiring: Wiring,
    log_directory: Path,
    environments: Mapping[str, Mapping[str, str]],
    processes: Mapping[str, ProcessDescription],
) -> PlatformDescription:
    """What ``platform.json`` says."""
    return PlatformDescription(
        name=name,
        started_at=started_at,
        supervisor_pid=os.getpid(),
        data_directory=str(wiring.data_directory),
        log_directory=str(log_directory),
        urls={listener: wiring.url(listener) for listener in wiring.ports},
        postgres=PostgresDescription(database=DATABASE, superuser_dsn=wiring.postgres.dsn(DATABASE), dsns=wiring.dsns),
        nats=NatsDescription(url=wiring.nats.url, monitor_url=wiring.nats.monitor_url, users=dict(wiring.nats.users)),
        s3=S3Description(
            endpoint_url=wiring.s3.endpoint_url,
            region=wiring.s3.region,
            buckets=list(BUCKETS),
            credentials={
                identity: S3Credentials(access_key=access_key, secret_key=secret_key)
                for identity, (access_key, secret_key) in wiring.s3.credentials.items()
            },
        ),
        identity=wiring.identity,
        environments={service: dict(settings) for service, settings in environments.items()},
        processes=dict(processes),
    )
