"""Another release of this repository: its files, with an environment of its own."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_MIGRATIONS: Final = ":(glob)services/*/src/*/migrations/versions/*.py"


@dataclass(frozen=True)
class Release:
    """A commit, and the interpreter with which its services run."""

    commit: str
    subject: str
    python: Path


def before_the_newest_migration() -> str:
    """The newest commit that lacks a migration that this checkout has. Raises ValueError in a clone without history."""
    added = _git("log", "-1", "--format=%H", "--diff-filter=A", "--", _MIGRATIONS)
    if not added or not _git("rev-list", "--parents", "-n", "1", added).split()[1:]:
        raise ValueError("the history of the migrations is not here: fetch it, or give --from-commit")
    return f"{added}^"


def check_out(commit: str, directory: Path) -> Release:
    """Put the files of a commit or tag into ``directory``, and install its services as its lock file says."""
    resolved = _git("rev-parse", "--verify", f"{commit}^{{commit}}")
    archive = subprocess.run(["git", "archive", resolved], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "--extract", "--directory", directory], input=archive.stdout, check=True)
    uv = [str(ROOT / ".tools/bin/uv"), "sync", "--quiet", "--all-packages", "--frozen", "--no-dev"]
    subprocess.run([*uv, "--python", sys.executable], cwd=directory, check=True)
    return Release(resolved, _git("log", "-1", "--format=%s", resolved), directory / ".venv/bin/python")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
