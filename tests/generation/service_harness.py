"""A harness for the running service: its neighbours, the provider, and a scripted worker behind it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generation.settings import Settings
from local_platform.servers import S3Server
from tests.generation.emulator import API_KEY, Emulator, emulating
from tests.generation.service import BrokerOf, Peers, peers, running, service_settings
from tests.generation.worker import Worker, working
from tests.support.databases import Database


@dataclass
class ServiceHarness:
    """Drives one service, or several replicas of it, from all sides."""

    database: Database
    peers: Peers
    emulator: Emulator
    worker: Worker
    settings: Callable[..., Settings]

    @asynccontextmanager
    async def replica(self, **changes: Any) -> AsyncIterator[None]:
        """One running replica of generation."""
        async with running(self.settings(**changes)):
            yield


@asynccontextmanager
async def service_harness(
    make_database: Callable[..., Awaitable[Database]], broker_settings: BrokerOf, s3: S3Server, directory: Path
) -> AsyncIterator[ServiceHarness]:
    """Everything around generation. The test starts the replicas."""
    database = await make_database("generation")
    async with (
        emulating(directory) as emulator,
        peers(database, broker_settings, s3) as around,
        working(emulator.url, "video-ep", API_KEY) as worker,
    ):

        def settings(**changes: Any) -> Settings:
            return service_settings(database, broker_settings("generation"), s3, emulator.url, API_KEY, **changes)

        yield ServiceHarness(database, around, emulator, worker, settings)
