"""A schema with only the tables of messaging and one for effects, and whole services on it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.message import Service
from messaging.consumers import Component, Subscription
from messaging.runtime import Messaging
from messaging.schema import grant_statements, table_statements
from messaging.settings import BrokerSettings
from tests.support.databases import Database

SERVICES: tuple[Service, ...] = ("gateway", "billing", "payments", "generation")


@pytest.fixture
async def database(make_database) -> Database:
    """A database in which four services have the tables of messaging and a table ``effects`` (one row per effect)."""
    made = await make_database()
    for service in SERVICES:
        async with made.engine(f"{service}_migrator").begin() as connection:
            for statement in (*table_statements(service), *grant_statements(service, service)):
                await connection.execute(text(statement.replace(":", "\\:")))
            await connection.execute(
                text(f"CREATE TABLE {service}.effects (number bigserial, message_id uuid, subject text, note text)")
            )
            await connection.execute(text(f"GRANT ALL ON {service}.effects TO {service}"))
            await connection.execute(text(f"GRANT USAGE ON SEQUENCE {service}.effects_number_seq TO {service}"))
    return made


@asynccontextmanager
async def running(components: Sequence[Component]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run ``components`` inside the block; a component that dies by itself fails the test."""
    tasks = [asyncio.create_task(component.run(), name=component.name) for component in components]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


class Platform:
    """Makes services on one database and one broker."""

    def __init__(self, database: Database, broker_settings: Callable[[str], BrokerSettings]) -> None:
        self.database = database
        self._broker_settings = broker_settings
        self._stack = AsyncExitStack()

    def messaging(self, service: Service, subscriptions: Sequence[Subscription] = (), **settings: object) -> Messaging:
        """The messaging of one process of ``service``; not running yet."""
        base = self._broker_settings(service)
        values = {"url": base.url, "user": base.user, "password": base.password, **settings}
        return Messaging(
            service=service,
            engine=self.database.engine(service),
            broker_settings=BrokerSettings(**values),
            subscriptions=subscriptions,
        )

    async def start(
        self, service: Service, subscriptions: Sequence[Subscription] = (), **settings: object
    ) -> Messaging:
        """The same, running until the test ends."""
        messaging = self.messaging(service, subscriptions, **settings)
        await self._stack.enter_async_context(running(messaging.components()))
        return messaging

    def engine(self, service: Service) -> AsyncEngine:
        """An engine with the rights of ``service``."""
        return self.database.engine(service)

    async def stop(self) -> None:
        """Stop everything that was started."""
        await self._stack.aclose()


@pytest.fixture
async def platform(database: Database, broker_settings) -> AsyncIterator[Platform]:
    """Services on a fresh database and a fresh broker."""
    made = Platform(database, broker_settings)
    yield made
    await made.stop()
