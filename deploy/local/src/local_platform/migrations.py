"""The migrations of all services, one after the other, as each service's migrator."""

import asyncio
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from local_platform.servers.processes import ServerFailedError
from provisioning.database import migrator_of
from service_runtime.migrations import migrate


async def migrate_all(dsns: Mapping[str, str], services: Iterable[str], python: Path | None = None) -> None:
    """Bring the schema of each of ``services`` up to date; ``dsns`` are by role.

    With ``python``, the interpreter of a release, that release's command does it, as the Job of a deployment does.
    """
    for service in services:
        dsn = dsns[migrator_of(service)]
        if python is None:
            await asyncio.to_thread(migrate, package=service, dsn=dsn)
        else:
            await asyncio.to_thread(_run_job, python, service, dsn)


def _run_job(python: Path, service: str, dsn: str) -> None:
    environment = {"PATH": os.environ["PATH"], f"{service.upper()}_MIGRATION_DATABASE_URL": dsn}
    command = [str(python), "-m", f"{service}.main", "migrate"]
    job = subprocess.run(command, env=environment, cwd=python.parent, capture_output=True, text=True, check=False)
    if job.returncode != 0:
        raise ServerFailedError(f"the migration of {service} failed:\n{job.stderr}")
