"""The broker of a module's tests."""

from collections.abc import Iterator

import pytest

from local_platform.servers import NatsServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A broker that was provisioned once."""
    made = NatsServer(tmp_path_factory.mktemp("nats"))
    made.start_blocking()
    yield made
    made.stop_blocking()
