"""The emulator as a process."""

import json
import os
import signal
import sys
from pathlib import Path

import httpx
import pytest

from local_platform.servers.processes import ChildProcess
from tests.support.waiting import eventually


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_writes_its_address_and_ends_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    ready_file = tmp_path / "ready.json"
    process = ChildProcess(
        [
            sys.executable,
            "-m",
            "local_platform.runpod_emulator",
            "--port",
            "0",
            "--api-key",
            "k",
            "--ready-file",
            ready_file,
        ],
        log_file=tmp_path / "log",
        environment=dict(os.environ),
        directory=tmp_path,
    )
    try:
        await eventually(ready_file.exists, timeout=20, what="the ready file")
        url = json.loads(ready_file.read_text())["url"]
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{url}/healthz")).json() == {"status": "ok"}
        process.send(number)
        await eventually(lambda: not process.alive(), what="the emulator's end")
    finally:
        process.kill()
    assert (tmp_path / "log").read_text() == ""
