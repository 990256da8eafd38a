"""The clients as their users meet them, against a running platform."""

import gzip
import os
import platform as platform_module
import sys
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from local_platform.description import PlatformDescription
from local_platform.identity import sign_token
from tests.clients.palettes import use_palette
from tests.support.node import BROWSER, CLIENT, ROOT, build_client, node_of, run_node

pytestmark = pytest.mark.timeout(300)
"""The platform starts with the first of these tests."""
LARGEST_PICTURE_BYTES: Final = 200 * 1024
LARGEST_PLAYGROUND_BYTES: Final = 150 * 1024
"""Compressed, with the client."""


def test_the_typescript_client_does_what_it_says(
    platform: PlatformDescription, funded_token: str, picture: Path
) -> None:
    build_client()
    environment = {
        "REELHOUSE": platform.urls["gateway"],
        "TOKEN": funded_token,
        "POOR_TOKEN": sign_token(platform.identity, uuid4()),
        "PICTURE": str(picture),
    }
    run_node(CLIENT, "--test", "test/platform.test.ts", environment=environment)


@pytest.mark.skipif(
    (sys.platform, platform_module.machine()) != ("linux", "x86_64"),
    reason="NOT TESTED: the packaged Chromium runs on Linux with an x86-64 processor only",
)
def test_a_new_user_walks_through_the_playground(platform: PlatformDescription, picture: Path, tmp_path: Path) -> None:
    """Order, watch, reload, play, upload, buy, read the statement: see tests/browser/playground.test.js."""
    documented = os.environ.get("PLAYGROUND_PICTURES")
    pictures = Path(documented or tmp_path).resolve()
    # Chromium is unpacked once, beside its package.
    unpacked = BROWSER / "node_modules/.chromium"
    environment = {
        "REELHOUSE": platform.urls["gateway"],
        "PICTURE": str(picture),
        "PICTURES": str(pictures),
        "TMPDIR": str(unpacked),
    }
    node_of(BROWSER)
    unpacked.mkdir(exist_ok=True)
    run_node(BROWSER, "--test", "playground.test.js", environment=environment)
    if documented:
        for file in pictures.glob("playground-*.png"):
            use_palette(file)
            assert file.stat().st_size <= LARGEST_PICTURE_BYTES, file.name


def test_what_the_playground_loads_is_small() -> None:
    files = [file for file in (ROOT / "clients/playground").iterdir() if file.is_file()]
    assert sum(len(gzip.compress(file.read_bytes())) for file in files) <= LARGEST_PLAYGROUND_BYTES
