"""A schema with only the tables of messaging and one for effects, and whole services on it."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.message import Service
from contracts.permissions import PROVISIONER, durable_name
from local_platform.servers import NatsServer
from messaging.consumers import Subscription
from messaging.failpoints import VARIABLE
from messaging.provisioning import provision_server
from messaging.runtime import Messaging
from messaging.schema import grant_statements, table_statements
from messaging.settings import ConsumerLimits
from service_runtime.lifecycle import Component
from service_runtime.settings import ServiceSettings
from tests.support.components import running
from tests.support.databases import Database, MakeDatabase
from tests.support.fork_server import ForkedProcess, start_forked

SERVICES: tuple[Service, ...] = ("gateway", "billing", "payments", "generation")


@pytest.fixture
async def database(make_database: MakeDatabase) -> Database:
    """A database in which four services have the tables of messaging and a table ``effects`` (one row per effect)."""
    made = await make_database()
    await add_tables(made)
    return made


async def add_tables(database: Database) -> None:
    """The tables of messaging and ``effects``, made by each service's migrator."""
    for service in SERVICES:
        connection = await asyncpg.connect(database.dsn(f"{service}_migrator"))
        try:
            for statement in (*table_statements(service), *grant_statements(service, service)):
                await connection.execute(statement)
            await connection.execute(
                f"CREATE TABLE {service}.effects (number bigserial, message_id uuid, subject text, note text)"
            )
            await connection.execute(f"GRANT ALL ON {service}.effects TO {service}")
            await connection.execute(f"GRANT USAGE ON SEQUENCE {service}.effects_number_seq TO {service}")
        finally:
            await connection.close()


class MessagingHarness:
    """Makes services on one database and one broker."""

    def __init__(
        self, database: Database, nats_server: NatsServer, broker_settings: Callable[[str], ServiceSettings]
    ) -> None:
        self.database = database
        self.nats_server = nats_server
        self._broker_settings = broker_settings
        self._stack = AsyncExitStack()
        self._engines: dict[Service, AsyncEngine] = {}

    def messaging(self, service: Service, subscriptions: Sequence[Subscription] = (), **limits: Any) -> Messaging:
        """The messaging of one process of ``service``; not running yet."""
        return Messaging(
            service=service,
            engine=self.database.engine(service),
            settings=self._broker_settings(service),
            subscriptions=subscriptions,
            limits=ConsumerLimits(**limits),
        )

    async def start(
        self,
        service: Service,
        subscriptions: Sequence[Subscription] = (),
        ack_wait_seconds: float | None = None,
        **limits: Any,
    ) -> Messaging:
        """The same, running until the test ends."""
        if ack_wait_seconds is not None:
            await self.change_consumer(service, "BILLING", ack_wait=ack_wait_seconds)
        messaging = self.messaging(service, subscriptions, **limits)
        await self.run(messaging.components())
        return messaging

    async def run(self, components: Sequence[Component]) -> None:
        """Run ``components`` until the test ends."""
        await self._stack.enter_async_context(running(components))

    async def provision(self, **options: Any) -> list[str]:
        """Run the provisioner; returns what it changed."""
        return await provision_server(self.nats_server.url, self.nats_server.users[PROVISIONER], **options)

    async def change_consumer(self, service: Service, stream: str, **fields: Any) -> None:
        """Have a consumer kept otherwise than the provisioner made it."""
        jetstream = (await self.admin()).jetstream()
        info = await jetstream.consumer_info(stream, durable_name(service, stream))
        await jetstream.add_consumer(stream, info.config, **fields)

    async def process(
        self, service: Service, failpoints: str = "", messages: int = 0, max_deliveries: int = 5
    ) -> ForkedProcess:
        """A process of ``service`` that commits ``messages`` and dies at ``failpoints``, or else when the test ends."""
        if service == "gateway":
            await self.change_consumer("gateway", "BILLING", ack_wait=2)
        process = await start_forked(
            "tests.messaging.integration.process",
            service,
            environment={
                "DATABASE_URL": self.database.dsn(service),
                "NATS_URL": self.nats_server.url,
                "NATS_USER": service,
                "NATS_PASSWORD": self.nats_server.users[service],
                "OPS_PORT": "0",
                "MESSAGES": str(messages),
                "MAX_DELIVERIES": str(max_deliveries),
                VARIABLE: failpoints,
            },
        )
        self._stack.push_async_callback(_kill, process)
        return process

    def engine(self, service: Service) -> AsyncEngine:
        """The test's own engine with the rights of ``service``: one for all its looks, however often it looks."""
        if service not in self._engines:
            self._engines[service] = self.database.engine(service)
        return self._engines[service]

    async def admin(self) -> Client:
        """A connection to the broker that may do anything."""
        client = Client()
        await client.connect(self.nats_server.url, user="admin", password=self.nats_server.users["admin"])
        self._stack.push_async_callback(client.close)
        return client

    async def stop(self) -> None:
        """Stop everything that was started, the last first."""
        await self._stack.aclose()


async def _kill(process: ForkedProcess) -> None:
    process.kill()
    await process.wait()


@pytest.fixture
async def harness(
    database: Database, nats_server: NatsServer, broker_settings: Callable[[str], ServiceSettings]
) -> AsyncIterator[MessagingHarness]:
    """Services on a fresh database and a fresh broker."""
    made = MessagingHarness(database, nats_server, broker_settings)
    yield made
    await made.stop()
