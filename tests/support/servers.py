"""Fixtures that start real servers. Each starts only when a test asks for it."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from pydantic import SecretStr

from local_platform.servers import NatsServer, PostgresServer, S3Server
from service_runtime.settings import ServiceSettings
from tests.support.folders import quickest_parent, removed_at_exit


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the whole session; take a database of your own with ``make_database``."""
    with removed_at_exit("reelhouse-test-postgres-", quickest_parent()) as directory:
        server = PostgresServer(directory)
        server.start_blocking()
        yield server
        server.stop_blocking("immediate")


@pytest.fixture
async def own_postgres() -> AsyncIterator[PostgresServer]:
    """A PostgreSQL server that this test may stop."""
    with removed_at_exit("reelhouse-test-postgres-") as directory:
        server = PostgresServer(directory)
        await server.start()
        yield server
        if server.alive():
            await server.stop("immediate")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 server for the whole session, with the buckets and identities of the platform. Use keys of your own."""
    with removed_at_exit("reelhouse-test-s3-", quickest_parent()) as directory:
        server = S3Server(directory)
        server.start_blocking()
        yield server
        server.stop_blocking()


@pytest.fixture
def nats_server() -> Iterator[NatsServer]:
    """A NATS server with an empty store and the permissions of every service switched on."""
    with removed_at_exit("reelhouse-test-nats-", quickest_parent()) as directory:
        server = NatsServer(directory)
        server.start_blocking()
        yield server
        server.stop_blocking()


@pytest.fixture
def broker_settings(nats_server: NatsServer) -> Callable[[str], ServiceSettings]:
    """``broker_settings("billing")``: settings with which that service reaches the broker of this test, and no more."""

    def settings(service: str) -> ServiceSettings:
        return ServiceSettings(
            database_url=SecretStr("postgresql://nowhere.invalid"),
            nats_url=nats_server.url,
            nats_user=service,
            nats_password=SecretStr(nats_server.users[service]),
            ops_port=0,
        )

    return settings
