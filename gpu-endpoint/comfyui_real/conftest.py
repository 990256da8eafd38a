"""A real ComfyUI with tiny random weights, for as long as the checks run: on the CPU, or on a GPU.

``COMFYUI_DEVICE=cuda`` runs it on the GPU, and ``COMFYUI_ARGUMENTS`` are more of its own, as a worker's are.
"""

import asyncio
import contextlib
import os
import shlex
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.comfyui.conftest import RendererHarness
from tests.comfyui.graphs import CATALOGUE

from gpu_endpoint.renderers.comfyui import ComfyUISettings

TINY_WEIGHTS = Path(__file__).with_name("tiny_weights.py")
TINY_NODE = Path(__file__).with_name("tiny_node.py")
NEIGHBOUR = Path(__file__).with_name("neighbour.py")
DEVICES = {"cpu": ("--cpu",), "cuda": ()}
"""What ComfyUI is told, for it to use the device."""

TakeGpuMemory = Callable[[int], AbstractContextManager["Neighbour"]]


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
def device() -> str:
    """Where ComfyUI computes: ``cpu``, unless ``COMFYUI_DEVICE`` says ``cuda``."""
    chosen = os.environ.get("COMFYUI_DEVICE") or "cpu"
    if chosen not in DEVICES:
        raise ValueError(f"COMFYUI_DEVICE must be one of {', '.join(DEVICES)}, not {chosen}")
    return chosen


@pytest.fixture(scope="session")
def cuda(device: str) -> None:
    """A GPU, or a loud skip."""
    if device != "cuda":
        pytest.skip("NOT CHECKED ON A GPU: set COMFYUI_DEVICE=cuda on a machine with one")


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
    checkout: Path, python: Path, device: str, base_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RendererHarness]:
    """One renderer for all checks: a start takes ten seconds."""
    more = shlex.split(os.environ.get("COMFYUI_ARGUMENTS", ""))
    settings = ComfyUISettings(
        checkout=checkout,
        python=python,
        work_directory=tmp_path_factory.mktemp("work"),
        arguments=(*DEVICES[device], "--base-directory", str(base_directory), *more),
        # All of it: where CUDA's libraries lie is said in it, on some machines.
        environment=os.environ | {"OMP_NUM_THREADS": "1"},
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


class Neighbour:
    """Another process on the GPU."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def let_go(self) -> None:
        """Give the memory back, and wait until that is done."""
        self._tell(b"let go\n", b"free")

    def wait_until_it_holds(self) -> None:
        """Wait until it has taken what it takes."""
        self._tell(b"", b"held")

    def _tell(self, order: bytes, answer: bytes) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order)
        self._process.stdin.flush()
        line = self._process.stdout.readline().strip()
        assert line == answer, line


@pytest.fixture
def take_gpu_memory(cuda: None, python: Path, comfyui: RendererHarness) -> TakeGpuMemory:
    """``with take_gpu_memory(leaving_mebibytes)``: another process holds all of the GPU's memory but that much."""

    @contextlib.contextmanager
    def take(leaving_mebibytes: int) -> Iterator[Neighbour]:
        command = [str(python.absolute()), str(NEIGHBOUR), str(leaving_mebibytes)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - ours
        try:
            neighbour = Neighbour(process)
            neighbour.wait_until_it_holds()
            yield neighbour
        finally:
            process.kill()
            process.communicate()

    return take


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """``figures(line)``: a line that is printed when all checks are over."""
    return lambda line: record_property("figures", line)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what the checks measured."""
    lines = [
        f"{report.nodeid.partition('::')[2]}: {value}"
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
        for name, value in report.user_properties
        if name == "figures"
    ]
    if lines:
        terminalreporter.section("figures")
        terminalreporter.write_line("\n".join(lines))
