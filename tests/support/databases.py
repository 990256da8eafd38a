"""Databases for tests: migrated once per session and combination of services, then cloned for each test."""

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from local_platform.migrations import migrate_all
from local_platform.servers import PostgresServer
from provisioning import database as provision
from service_runtime.database import engine_for


class Database:
    """One test's own database. ``dsns`` maps role (``billing``, ``billing_migrator``, ...) to connection string."""

    def __init__(self, name: str, dsns: dict[str, str], superuser_dsn: str) -> None:
        self.name = name
        self.dsns = dsns
        self.superuser_dsn = superuser_dsn
        self._engines: list[AsyncEngine] = []

    def dsn(self, role: str) -> str:
        """Connection string of ``role``."""
        return self.dsns[role]

    def engine(self, role: str, pool_size: int = 10) -> AsyncEngine:
        """A new engine for ``role`` as services have it, disposed of when the test ends. Each call is its own pool."""
        return self._engine(self.dsns[role], pool_size)

    def superuser_engine(self, pool_size: int = 10) -> AsyncEngine:
        """A new engine that may do anything: to inspect and to tamper."""
        return self._engine(self.superuser_dsn, pool_size)

    async def tamper(self, *statements: str) -> None:
        """Change rows past every trigger, in one transaction. A statement that changes none fails the test."""
        async with self.superuser_engine().begin() as connection:
            await connection.execute(text("SET LOCAL session_replication_role = replica"))
            for statement in statements:
                changed = (await connection.execute(text(statement))).rowcount
                assert changed >= 1 or statement.startswith("ALTER"), statement

    async def dispose(self) -> None:
        """Close every connection of every engine."""
        for engine in self._engines:
            await engine.dispose()

    def _engine(self, dsn: str, pool_size: int) -> AsyncEngine:
        engine = engine_for(dsn, application_name=f"test-{self.name}", pool_size=pool_size)
        self._engines.append(engine)
        return engine


MakeDatabase = Callable[..., Awaitable[Database]]
"""What the fixture ``make_database`` gives: see there."""


class DatabaseFactory:
    """Makes databases on one server."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._passwords = provision.new_passwords()
        self._templates: dict[tuple[str, ...], str] = {}
        self._numbers = count(1)

    async def make(self, services: tuple[str, ...]) -> Database:
        """A clone of the template in which ``services`` are migrated (made first, if it is not there yet)."""
        template = await self._template(tuple(sorted(set(services))))
        name = f"test_{next(self._numbers)}"
        connection = await asyncpg.connect(self._server.dsn())
        try:
            # The other strategy writes every page to the WAL, too: twice the processor time.
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
            for statement in provision.database_statements(name):
                await connection.execute(statement)
        finally:
            await connection.close()
        dsns = provision.role_dsns(self._server.dsn(), name, self._passwords)
        return Database(name, dsns, self._server.dsn(name))

    async def drop(self, database: Database) -> None:
        """Remove the database, and cut the connections that are left."""
        connection = await asyncpg.connect(self._server.dsn())
        try:
            await connection.execute(f"DROP DATABASE {database.name} WITH (FORCE)")
        finally:
            await connection.close()

    async def _template(self, services: tuple[str, ...]) -> str:
        if services not in self._templates:
            name = "_".join(("template", *services))
            dsns = await provision.provision_database(self._server.dsn(), name, self._passwords)
            if services:
                await migrate_all(dsns, services)
            self._templates[services] = name
        return self._templates[services]


@pytest.fixture(scope="session")
def database_factory(postgres_server: PostgresServer) -> DatabaseFactory:
    """The factory behind ``make_database``; remembers templates for the whole session."""
    return DatabaseFactory(postgres_server)


@pytest.fixture
async def make_database(database_factory: DatabaseFactory) -> AsyncIterator[MakeDatabase]:
    """``await make_database("billing", "gateway")``: a database with these migrated; no service means schemas only."""
    made: list[Database] = []

    async def make(*services: str) -> Database:
        database = await database_factory.make(services)
        made.append(database)
        return database

    yield make
    for database in made:
        await database.dispose()
        await database_factory.drop(database)
