"""A whole platform at rest, and the auditor's view of it."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.message import SERVICES
from service_runtime.database import engine_for
from tests.auditor.platform_harness import PlatformHarness, build_platform
from tests.support.databases import Database


@pytest.fixture
async def database(make_database: Callable[..., Awaitable[Database]]) -> Database:
    """Every schema, migrated."""
    return await make_database(*SERVICES)


@pytest.fixture
async def platform(database: Database) -> PlatformHarness:
    """Rows of every service that agree with each other."""
    return await build_platform(database)


@pytest.fixture
async def auditor(database: Database) -> AsyncIterator[AsyncEngine]:
    """The auditor's own role: in other schemas it may only read."""
    engine = engine_for(database.dsn("auditor"), application_name="test", pool_size=3)
    yield engine
    await engine.dispose()
