"""The whole platform as its users meet it: the demo succeeds and leaves nothing running."""

import asyncio
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_platform.description import platform_directory

REPOSITORY = Path(__file__).resolve().parents[2]
_TIMEOUT_SECONDS = 240


@pytest.fixture
def name() -> Iterator[str]:
    name = f"e2e-{secrets.token_hex(4)}"
    yield name
    shutil.rmtree(platform_directory(name, REPOSITORY), ignore_errors=True)


@pytest.mark.timeout(_TIMEOUT_SECONDS + 60)
async def test_the_demo_holds_all_it_promises_and_leaves_nothing_running(name: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "local_platform", "demo", "--name", name),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        output, _ = await process.communicate()
    printed = output.decode()
    assert process.returncode == 0, printed[-4000:]
    assert "All of it held" in printed
    left = [path.name for path in platform_directory(name, REPOSITORY).iterdir()]
    assert sorted(left) == ["clip.mp4", "logs", "picture.png"]
