"""A container engine and the images under test, for the tests that need them."""

import os
import socket
from collections.abc import Mapping
from typing import Final

import docker
import pytest
from docker.errors import DockerException

from tests.deploy.manifests import ROOT

OWN_BASE_IMAGE: Final = os.environ.get("REELHOUSE_BASE_IMAGE")
"""Set where no registry is reached: the image that everything is built on."""
BASE_IMAGE: Final = OWN_BASE_IMAGE or "python:3.13-slim-trixie"
TAG: Final = "under-test"
DEFAULT_HOST: Final = "unix:///var/run/docker.sock"


def connect() -> docker.DockerClient:
    """A client of the engine. Skips the test, and loudly, where none answers."""
    # Asked by ourselves first: the client leaves a socket open if nobody answers.
    host = os.environ.get("DOCKER_HOST", DEFAULT_HOST)
    if host.startswith("unix://") and (reason := _why_not(host.removeprefix("unix://"))):
        pytest.skip(f"NO CONTAINER ENGINE, NO IMAGE IS TRIED: {host}: {reason}")
    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except DockerException as error:
        pytest.skip(f"NO CONTAINER ENGINE, NO IMAGE IS TRIED: {error}")
    return client


def build(engine: docker.DockerClient, image: str, file: str, context: str = ".", **arguments: str) -> str:
    """Build an image from this tree, and return its name. ``file`` lies below ``context``."""
    given: Mapping[str, str] = {"PYTHON_IMAGE": BASE_IMAGE, **arguments}
    engine.images.build(
        path=str(ROOT / context), dockerfile=file, buildargs=dict(given), tag=image, network_mode="host", rm=True
    )
    return image


def _why_not(path: str) -> OSError | None:
    """Why nobody answers at a socket; None if somebody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            return error
    return None
