"""The auditor as a running service."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import httpx
import psutil
import pytest
from sqlalchemy import text

from contracts.generation import GenerationQueued
from local_platform.servers import NatsServer
from local_platform.servers.ports import free_port
from messaging.runtime import Messaging
from service_runtime.settings import ServiceSettings
from tests.auditor.platform_harness import PlatformHarness
from tests.support.databases import Database
from tests.support.waiting import eventually

MEMORY_LIMIT_MB = 120

BrokerSettingsOf = Callable[[str], ServiceSettings]


class AuditorHarness:
    """Drives one process of the service through its ops port."""

    def __init__(self, process: asyncio.subprocess.Process, ops: str) -> None:
        self.process = process
        self.ops = ops

    async def ready(self) -> bool:
        async with httpx.AsyncClient() as client:
            try:
                return (await client.get(f"{self.ops}/readyz")).status_code == 200
            except httpx.TransportError:
                return False

    async def metrics(self) -> str:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{self.ops}/metrics")).text


@asynccontextmanager
async def replica(database: Database, nats: NatsServer) -> AsyncIterator[AuditorHarness]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "auditor.main", "serve"),
        env={
            "AUDITOR_DATABASE_URL": database.dsn("auditor"),
            "AUDITOR_NATS_URL": nats.url,
            "AUDITOR_NATS_USER": "auditor",
            "AUDITOR_NATS_PASSWORD": nats.users["auditor"],
            "AUDITOR_OPS_HOST": "127.0.0.1",
            "AUDITOR_OPS_PORT": str(port),
            "AUDITOR_CHECK_SECONDS": "0.2",
            # No store answers there: the journal and the checks do without.
            "AUDITOR_S3_ENDPOINT_URL": "http://127.0.0.1:1",
            "AUDITOR_S3_ACCESS_KEY_ID": "of-no-store",
            "AUDITOR_S3_SECRET_ACCESS_KEY": "of-no-store",
        },
        stdout=asyncio.subprocess.DEVNULL,
    )
    running = AuditorHarness(process, f"http://127.0.0.1:{port}")
    try:
        await eventually(running.ready, timeout=30, what="the auditor's readiness")
        yield running
    finally:
        if process.returncode is None:
            process.terminate()
            assert await process.wait() == 0


@pytest.fixture
async def generation(database: Database, broker_settings: BrokerSettingsOf) -> AsyncIterator[Messaging]:
    """A service that publishes."""
    messaging = Messaging(
        service="generation", engine=database.engine("generation"), settings=broker_settings("generation")
    )
    tasks = [asyncio.create_task(component.run()) for component in messaging.components()]
    yield messaging
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def publish(messaging: Messaging, count: int) -> None:
    async with messaging.transactions.begin() as tx:
        for _ in range(count):
            queued = GenerationQueued(generation_id=uuid4(), user_id=uuid4(), version=1, lane="free")
            tx.publish(queued, correlation_id=queued.generation_id)


async def recorded(database: Database) -> int:
    async with database.superuser_engine().connect() as connection:
        # The platform has one too, without content.
        query = text("SELECT count(*) FROM auditor.journal WHERE subject = :subject AND payload <> '{}'")
        return int(await connection.scalar(query, {"subject": GenerationQueued.subject}) or 0)


async def test_it_records_checks_and_is_small(
    database: Database, platform: PlatformHarness, generation: Messaging, nats_server: NatsServer
) -> None:
    # Before the first check: the next may be half a minute away, for checks take a tenth of the time.
    await platform.corrupt("UPDATE billing.users SET reserved_credits = 7 WHERE user_id = '{user}'")
    async with replica(database, nats_server) as auditor:
        await publish(generation, 500)
        await eventually(lambda: _equals(recorded(database), 500), timeout=30, what="500 messages in the journal")

        metric = 'auditor_violations{invariant="held_reservations_are_backed",severity="critical"} 1.0'
        await eventually(lambda: _contains(auditor.metrics(), metric), timeout=30, what="the violation in the metrics")

        resident = psutil.Process(auditor.process.pid).memory_info().rss / 1e6
        assert resident < MEMORY_LIMIT_MB, f"{resident:.0f} MB"


async def test_what_was_published_while_the_auditor_was_dead_is_recorded_when_it_is_back(
    database: Database, platform: PlatformHarness, generation: Messaging, nats_server: NatsServer
) -> None:
    async with replica(database, nats_server) as first:
        await publish(generation, 300)
        await eventually(lambda: _equals(recorded(database), 300), timeout=30, what="300 messages in the journal")
        first.process.send_signal(signal.SIGKILL)
        await first.process.wait()
    await publish(generation, 300)
    async with replica(database, nats_server):
        await eventually(lambda: _equals(recorded(database), 600), timeout=60, what="600 messages in the journal")


async def _equals(value: Awaitable[int], expected: int) -> bool:
    return await value == expected


async def _contains(value: Awaitable[str], part: str) -> bool:
    return part in await value
