"""A real ComfyUI on the CPU, with tiny random weights, for as long as the checks run."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.comfyui.conftest import RendererHarness
from tests.comfyui.graphs import CATALOGUE

from gpu_endpoint.renderers.comfyui import ComfyUISettings

TINY_WEIGHTS = Path(__file__).with_name("tiny_weights.py")
TINY_NODE = Path(__file__).with_name("tiny_node.py")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The checkout of ComfyUI, or a loud skip."""
    directory = os.environ.get("COMFYUI", "")
    if not directory:
        pytest.skip("NOT CHECKED AGAINST A REAL COMFYUI: set COMFYUI to a checkout of it")
    return Path(directory)


@pytest.fixture(scope="session")
def python(checkout: Path) -> Path:
    """The interpreter that has its requirements."""
    return Path(os.environ.get("COMFYUI_PYTHON") or checkout / ".venv/bin/python")


@pytest.fixture(scope="session")
def base_directory(checkout: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every model of the catalogue under its own file names, about a hundred megabytes in all."""
    base = tmp_path_factory.mktemp("base")
    (base / "custom_nodes").mkdir()
    shutil.copy(TINY_NODE, base / "custom_nodes")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    descriptions = [str(path) for path in sorted(CATALOGUE.glob("*/model.json"))]
    command = [str(python.absolute()), str(TINY_WEIGHTS), str(base / "models"), *descriptions]
    subprocess.run(command, cwd=checkout, env=environment, check=True)  # noqa: S603 - the operator's own
    return base


@pytest.fixture(scope="session")
def shared_real(
    checkout: Path, python: Path, base_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RendererHarness]:
    """One renderer for all checks: a start takes ten seconds."""
    settings = ComfyUISettings(
        checkout=checkout,
        python=python,
        work_directory=tmp_path_factory.mktemp("work"),
        arguments=("--cpu", "--base-directory", str(base_directory)),
        environment={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
    )
    harness = RendererHarness(settings, tmp_path_factory.mktemp("jobs"))
    yield harness
    asyncio.run(harness.renderer.close())


@pytest.fixture
async def comfyui(shared_real: RendererHarness) -> AsyncIterator[RendererHarness]:
    """The renderer, ready; afterwards nothing of the check may be left."""
    await shared_real.renderer.open()
    shared_real.reports.clear()
    shared_real.boots_before = shared_real.process.boots - 1
    yield shared_real
    # A directory that ComfyUI makes when it is asked for the nodes that it has.
    assert [name for name in shared_real.files() if name != "input/3d"] == []
    assert await shared_real.queue_and_history() == ([], [], {})
