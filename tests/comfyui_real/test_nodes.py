"""The description of ComfyUI's nodes, which every workflow is held against, is that of the ComfyUI in the image."""

import os
import urllib.request
from pathlib import Path

import msgspec
import pytest

from catalogue.comfyui_nodes import NodeDescriptions, load_node_descriptions
from catalogue.node_source import read_object_info, used_classes
from local_platform.servers.ports import free_port
from local_platform.servers.processes import ChildProcess, ServerFailedError
from tests.support.waiting import eventually

START_SECONDS = 300.0
"""PyTorch is imported in a few seconds, or in minutes where it was never compiled to bytecode."""

pytestmark = pytest.mark.timeout(START_SECONDS + 60)


async def test_the_nodes_are_described_as_this_comfyui_has_them(tmp_path: Path) -> None:
    directory = os.environ.get("COMFYUI", "")
    if not directory:
        pytest.skip("NOT CHECKED AGAINST A REAL COMFYUI: set COMFYUI to a checkout of it")
    checkout = Path(directory)
    python = os.environ.get("COMFYUI_PYTHON") or str(checkout / ".venv/bin/python")
    (tmp_path / "custom_nodes").mkdir()
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [python, "main.py", "--cpu", "--port", str(port), "--base-directory", str(tmp_path)]
    comfyui = ChildProcess(command, log_file=tmp_path / "comfyui.log", environment=os.environ, directory=checkout)
    try:

        def answers() -> bool:
            if not comfyui.alive():
                raise ServerFailedError(comfyui.log_file.read_text())
            try:
                with urllib.request.urlopen(f"{address}/system_stats", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        await eventually(answers, START_SECONDS, "ComfyUI's answer")
        found = read_object_info(address, None, used_classes())
    finally:
        comfyui.stop()
    assert msgspec.json.decode(found, type=NodeDescriptions).classes == load_node_descriptions().classes
