"""What a launched ComfyUI remembers of ``transformers``, which else reads all its sources at every import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_endpoint.renderers.comfyui import launcher

READER = """
import os

def create_import_structure_from_path(path):
    path = os.path.dirname(path) if os.path.isfile(path) else path
    found = {frozenset(): set()}
    for entry in os.scandir(path):
        if entry.is_dir() and entry.name != "__pycache__":
            found[entry.name] = create_import_structure_from_path(entry.path)
        elif entry.name.endswith(".py"):
            with open(os.environ["SOURCES_READ"], "a") as log:
                log.write(entry.name + "\\n")
            found[frozenset()].add(entry.name)
    return found
"""
PACKAGE = """
import pathlib
from .utils.import_utils import create_import_structure_from_path

models = pathlib.Path(__file__).parent / "models"
structures = [create_import_structure_from_path(models), create_import_structure_from_path(str(models / "__init__.py"))]
"""
PROGRAM = """
from transformers import structures
print(structures[0] == structures[1], structures[0])
"""
STRUCTURE = "True {frozenset(): {'__init__.py'}, 'a': {frozenset(): {'modeling_a.py'}}}"
ALL = ["__init__.py", "modeling_a.py"]
TWICE = sorted(2 * ALL)
"""As it is without a memory."""


class LauncherHarness:
    """A program that imports a package shaped like ``transformers``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = root / "transformers"
        self.memory = self.package / f"models/__pycache__/structure.{sys.implementation.cache_tag}.marshal"
        for file, content in {
            "main.py": PROGRAM,
            "transformers/__init__.py": PACKAGE,
            "transformers/utils/__init__.py": "",
            "transformers/utils/import_utils.py": READER,
            "transformers/models/__init__.py": "",
            "transformers/models/a/modeling_a.py": "",
        }.items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(content)
        self.memory.parent.mkdir()

    def launch(self, *, write: bool = True, arguments: tuple[str, ...] = ()) -> tuple[str, list[str]]:
        """What the program prints, and which sources were read."""
        log = self.root / "sources_read"
        log.write_text("")
        environment = {"SOURCES_READ": str(log), "PYTHONPATH": str(self.root)}
        if not write:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        started = subprocess.run(
            [sys.executable, launcher.__file__, *(arguments or (str(os.getpid()), "1", "main.py"))],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert started.returncode == 0, started.stderr
        return started.stdout.strip(), sorted(log.read_text().split())


@pytest.fixture
def comfyui(tmp_path: Path) -> LauncherHarness:
    return LauncherHarness(tmp_path)


def test_sources_are_read_once_and_never_again(comfyui: LauncherHarness) -> None:
    assert comfyui.launch() == (STRUCTURE, ALL)
    assert comfyui.launch() == (STRUCTURE, [])


def test_an_image_remembers_when_it_is_built(comfyui: LauncherHarness) -> None:
    assert comfyui.launch(arguments=("remember",)) == ("", ALL)
    assert comfyui.launch(write=False) == (STRUCTURE, [])


def test_another_version_of_the_package_is_read_again(comfyui: LauncherHarness) -> None:
    comfyui.launch()
    (comfyui.package / "__init__.py").write_text(PACKAGE + "__version__ = '2'")
    assert comfyui.launch() == (STRUCTURE, ALL)
    assert comfyui.launch() == (STRUCTURE, [])


def test_a_moved_package_is_read_again(comfyui: LauncherHarness, tmp_path: Path) -> None:
    comfyui.launch()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    comfyui.package.rename(moved / "transformers")
    (comfyui.root / "main.py").rename(moved / "main.py")
    comfyui.root = moved
    assert comfyui.launch() == (STRUCTURE, ALL)


@pytest.mark.parametrize("content", [b"", b"\x00", b"i\x01\x00\x00\x00", b"no memory"])
def test_a_damaged_memory_is_written_again(comfyui: LauncherHarness, content: bytes) -> None:
    comfyui.memory.write_bytes(content)
    assert comfyui.launch() == (STRUCTURE, ALL)
    assert comfyui.launch() == (STRUCTURE, [])


def test_nothing_is_written_where_python_writes_no_bytecode(comfyui: LauncherHarness) -> None:
    assert comfyui.launch(write=False) == (STRUCTURE, TWICE)
    assert not comfyui.memory.exists()


def test_a_memory_that_cannot_be_written_stops_nothing(comfyui: LauncherHarness) -> None:
    comfyui.memory.mkdir()
    assert comfyui.launch() == (STRUCTURE, TWICE)
    assert comfyui.launch() == (STRUCTURE, TWICE)


def test_without_the_package_there_is_nothing_to_remember(comfyui: LauncherHarness) -> None:
    comfyui.package.rename(comfyui.root / "other")
    assert comfyui.launch(arguments=("remember",)) == ("", [])
