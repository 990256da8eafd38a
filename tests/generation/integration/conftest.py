"""The workbench, and the whole stage, on a database of each test's own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from local_platform.servers import S3Server
from tests.generation.bench import Bench
from tests.generation.service import BrokerOf
from tests.generation.stage import Stage, staged
from tests.support.databases import Database


@pytest.fixture
async def bench(make_database: Callable[..., Awaitable[Database]]) -> Bench:
    """Handlers and tables of generation, with its endpoints configured."""
    made = Bench(await make_database("generation"))
    await made.configure()
    return made


@pytest.fixture
async def stage(
    make_database: Callable[..., Awaitable[Database]], broker_settings: BrokerOf, s3_server: S3Server, tmp_path: Path
) -> AsyncIterator[Stage]:
    """Neighbours, provider and worker around a generation that the test starts."""
    async with staged(make_database, broker_settings, s3_server, tmp_path) as made:
        yield made
