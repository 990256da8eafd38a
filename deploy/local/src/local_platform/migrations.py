"""The migrations of all services, one after the other, as each service's migrator."""

import asyncio
from collections.abc import Iterable, Mapping

from contracts.message import SERVICES
from provisioning.database import migrator_of
from service_runtime.migrations import migrate


async def migrate_all(dsns: Mapping[str, str], services: Iterable[str] = SERVICES) -> None:
    """Bring the schema of each of ``services`` up to date; ``dsns`` are by role."""
    for service in services:
        await asyncio.to_thread(migrate, package=service, dsn=dsns[migrator_of(service)])
