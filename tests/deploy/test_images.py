"""The service images, built by a real engine and run as one platform. Skipped, and loudly, where no engine answers.

``make images-local`` makes a base image where no registry is reachable, and runs these tests on it.
"""

import os
import signal
import sys
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Final
from uuid import uuid4

import docker
import pytest

from contracts.message import SERVICES, Service
from local_platform.process_table import ProcessSpec, processes
from local_platform.supervisor import PlatformOptions, Supervisor
from local_platform.wiring import Wiring
from tests.deploy.container_process import LABEL
from tests.deploy.engine import BASE_IMAGE, TAG
from tests.deploy.manifests import ROOT
from tests.observability.scraping import buy_and_order
from tests.support.waiting import eventually

MEBIBYTE: Final = 1024 * 1024
COMPRESSED_LIMIT: Final[dict[Service, int]] = dict.fromkeys(SERVICES, 150) | {"storage": 220}
"""Of what the image adds to its base, in MiB; storage carries the decoders."""
READY_SECONDS: Final = 3.0
PLAYGROUND: Final = "GATEWAY_PLAYGROUND_DIRECTORY"
"""A directory of this machine: no image has the playground, which is off in production."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
async def platform(images: dict[Service, str]) -> AsyncIterator[Supervisor]:
    """A local platform whose services are containers; its servers, emulators and worker are processes."""
    table = [_contained(spec) if spec.name in images else spec for spec in processes(workers=1)]
    supervisor = Supervisor(PlatformOptions(name=f"images-{uuid4().hex[:8]}", root=ROOT), table)
    yield supervisor
    await supervisor.stop()


def test_images_are_small(engine: docker.DockerClient, images: dict[Service, str]) -> None:
    base = _compressed_mebibytes(engine, BASE_IMAGE)
    for service, image in images.items():
        added = _compressed_mebibytes(engine, image) - base
        print(f"{service}: {added:.0f} MiB compressed on top of a base of {base:.0f} MiB")
        assert added <= COMPRESSED_LIMIT[service]


def test_an_image_says_what_it_is_and_runs_as_nobody(engine: docker.DockerClient, images: dict[Service, str]) -> None:
    for service, image in images.items():
        attributes = engine.images.get(image).attrs["Config"]
        assert attributes["User"] == "10001:10001"
        assert attributes["Labels"]["org.opencontainers.image.title"] == f"reelhouse-{service}"
        assert attributes["Labels"]["org.opencontainers.image.version"] == TAG


def test_an_image_without_settings_names_the_variables(engine: docker.DockerClient, images: dict[Service, str]) -> None:
    container = engine.containers.run(images["billing"], detach=True, labels=[LABEL])
    assert container.wait()["StatusCode"] == 2
    assert b"BILLING_NATS_URL: Field required" in container.logs()


async def test_an_order_is_delivered_and_charged_by_containers(platform: Supervisor) -> None:
    await buy_and_order(await platform.start())


async def test_a_container_is_ready_soon(platform: Supervisor) -> None:
    await platform.start()
    for service in SERVICES:
        platform.kill(service, signal.SIGTERM)
        await eventually(partial(_ended, platform, service), 30, f"the end of {service}")
        started = time.monotonic()
        await platform.revive(service)
        took = time.monotonic() - started
        print(f"{service}: ready {took:.1f} s after the start of its container")
        assert took <= READY_SECONDS


def _ended(platform: Supervisor, service: Service) -> bool:
    return not platform.alive(service)


def _contained(spec: ProcessSpec) -> ProcessSpec:
    command = spec.command

    def contained(wiring: Wiring) -> list[str]:
        *_, how = command(wiring)
        return [sys.executable, "-m", "tests.deploy.container_process", f"reelhouse/{spec.name}:{TAG}", how]

    def environment(wiring: Wiring) -> Mapping[str, str]:
        engine = {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
        own = dict(spec.environment(wiring))
        own.pop(PLAYGROUND, None)
        return {**own, **engine}

    return replace(spec, command=contained, environment=environment, directory=lambda _: ROOT)


def _compressed_mebibytes(engine: docker.DockerClient, image: str) -> float:
    """What a registry would store, roughly: the layers of the image, compressed."""
    compressor, size = zlib.compressobj(6), 0
    for chunk in engine.images.get(image).save():
        size += len(compressor.compress(chunk))
    return (size + len(compressor.flush())) / MEBIBYTE
