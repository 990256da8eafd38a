"""A gateway harness for each test."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from local_platform.servers import NatsServer
from service_runtime.settings import ServiceSettings
from tests.gateway.harness import GatewayHarness, gateway_harness
from tests.support.databases import Database


@pytest.fixture
async def harness(
    make_database: Callable[..., Awaitable[Database]],
    nats_server: NatsServer,
    broker_settings: Callable[[str], ServiceSettings],
) -> AsyncIterator[GatewayHarness]:
    """PostgreSQL, NATS and an identity provider, and the means to start services."""
    async with gateway_harness(make_database, nats_server, broker_settings) as opened:
        yield opened
