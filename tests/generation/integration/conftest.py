"""Both harnesses, each on a database of its own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from local_platform.servers import S3Server
from tests.generation.harness import GenerationHarness
from tests.generation.service import BrokerOf
from tests.generation.service_harness import ServiceHarness, service_harness
from tests.support.databases import Database


@pytest.fixture
async def harness(make_database: Callable[..., Awaitable[Database]]) -> GenerationHarness:
    """Handlers and tables of generation, with its endpoints configured."""
    made = GenerationHarness(await make_database("generation"))
    await made.configure()
    return made


@pytest.fixture
async def service(
    make_database: Callable[..., Awaitable[Database]], broker_settings: BrokerOf, s3_server: S3Server, tmp_path: Path
) -> AsyncIterator[ServiceHarness]:
    """Neighbours, provider and worker around replicas that the test starts."""
    async with service_harness(make_database, broker_settings, s3_server, tmp_path) as made:
        yield made
