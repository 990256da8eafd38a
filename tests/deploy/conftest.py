"""One engine, and one build of the services' images, for every test that needs them."""

from collections.abc import Iterator

import docker
import pytest

from contracts.message import SERVICES, Service
from tests.deploy.container_process import LABEL
from tests.deploy.engine import TAG, build, connect


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """A client of the engine; its containers are removed at the end."""
    client = connect()
    yield client
    for container in client.containers.list(all=True, filters={"label": LABEL}):
        container.remove(force=True)
    client.close()


@pytest.fixture(scope="session")
def images(engine: docker.DockerClient) -> dict[Service, str]:
    """Every service's image, built from this tree."""
    return {
        service: build(engine, f"reelhouse/{service}:{TAG}", "deploy/images/Dockerfile", SERVICE=service, VERSION=TAG)
        for service in SERVICES
    }
