"""One whole platform for all tests of the clients, which takes a few seconds to start."""

import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from local_platform.description import PlatformDescription, platform_directory, read_platform
from local_platform.identity import sign_token
from tests.clients.harbour import harbour
from tests.support.node import CLIENT, ROOT, node_of


def command(name: str, *arguments: str) -> None:
    """Run one command of the local platform."""
    done = subprocess.run(
        [sys.executable, "-m", "local_platform", arguments[0], "--name", name, *arguments[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def platform() -> Iterator[PlatformDescription]:
    """A platform with one GPU worker."""
    node_of(CLIENT)
    name = f"clients-{secrets.token_hex(4)}"
    try:
        command(name, "up", "--detach")
        yield read_platform(name, ROOT)
    finally:
        command(name, "down")
        shutil.rmtree(platform_directory(name, ROOT), ignore_errors=True)


@pytest.fixture(scope="session")
def funded_token(platform: PlatformDescription) -> str:
    """A token of a user with 100 credits."""
    user_id = uuid4()
    grant = ("grant", "--user", str(user_id), "--credits", "100", "--reason", "goodwill", "--actor", "tests")
    command(platform.name, "run", "billing", *grant)
    return sign_token(platform.identity, user_id, "pro")


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture to upload."""
    file = tmp_path_factory.mktemp("pictures") / "harbour.png"
    file.write_bytes(harbour())
    return file
