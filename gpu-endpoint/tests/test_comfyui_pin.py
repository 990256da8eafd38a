"""The pin of ComfyUI, against a repository of this machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = [sys.executable, "-m", "gpu_endpoint.comfyui_pin"]


def git(repository: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(repository), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "upstream"
    path.mkdir()
    git(path, "init", "--quiet")
    (path / "main.py").write_text("print('first')\n")
    git(path, "add", ".")
    git(path, "commit", "--quiet", "-m", "first")
    git(path, "tag", "--annotate", "-m", "a release", "v1")
    return path


@pytest.fixture
def pin(tmp_path: Path, repository: Path) -> Path:
    path = tmp_path / "pin.json"
    path.write_text(json.dumps({"repository": f"file://{repository}", "version": "v1", "commit": None}))
    return path


def run(*arguments: object) -> tuple[int, str]:
    done = subprocess.run([*MODULE, *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def move_the_tag(repository: Path) -> None:
    (repository / "main.py").write_text("print('second')\n")
    git(repository, "commit", "--quiet", "-am", "second")
    git(repository, "tag", "--force", "v1")


def test_the_learned_commit_is_checked_out(tmp_path: Path, repository: Path, pin: Path) -> None:
    assert run("learn", "--pin", pin) == (0, "")
    assert json.loads(pin.read_text())["commit"] == git(repository, "rev-parse", "HEAD")
    assert run("checkout", tmp_path / "comfyui", "--pin", pin) == (0, "")
    assert (tmp_path / "comfyui/main.py").read_text() == "print('first')\n"


def test_without_a_commit_nothing_is_built(tmp_path: Path, pin: Path) -> None:
    code, words = run("checkout", tmp_path / "comfyui", "--pin", pin)
    assert code == 1
    assert "is not known yet" in words


def test_a_moved_tag_is_refused(tmp_path: Path, repository: Path, pin: Path) -> None:
    run("learn", "--pin", pin)
    move_the_tag(repository)
    for command in (["learn"], ["checkout", tmp_path / "comfyui"]):
        code, words = run(*command, "--pin", pin)
        assert code == 1
        assert "the tag v1 is" in words


def test_a_tag_that_is_not_there_is_told(pin: Path) -> None:
    pin.write_text(pin.read_text().replace('"v1"', '"v2"'))
    code, words = run("learn", "--pin", pin)
    assert code == 1
    assert "has no tag v2" in words
