"""Where files lie while they are verified: one directory per process. A new process removes those of killed ones."""

import fcntl
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_PREFIX: Final = "reelhouse-storage-"
_NUMBERS: Final = itertools.count()


def create_workspace(parent: Path | None = None) -> Path:
    """Create a directory that belongs to this process until it ends. Remove the directories of dead processes."""
    parent = parent or Path(tempfile.gettempdir())
    for abandoned in parent.glob(f"{_PREFIX}*"):
        if _lock(abandoned):
            shutil.rmtree(abandoned, ignore_errors=True)
    while True:
        created = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        # Another starting process may have removed it before it was locked.
        if _lock(created) and created.exists():
            return created


@contextmanager
def temporary_path(workspace: Path) -> Iterator[Path]:
    """A path in the workspace of this process that nothing else uses. A file that lies there at the end is removed."""
    path = workspace / str(next(_NUMBERS))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _lock(directory: Path) -> bool:
    """Take the lock of the directory and keep it until this process ends. False if another process has it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True
