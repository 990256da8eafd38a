"""Where files lie while they are looked at: a directory of each process. What a killed one left, the next removes."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_PREFIX: Final = "reelhouse-looks-"


def claim_workspace(parent: Path | None = None) -> Path:
    """Make a directory that is this process's as long as it lives, and remove those whose processes live no more."""
    parent = parent or Path(tempfile.gettempdir())
    for left in parent.glob(f"{_PREFIX}*"):
        if _lock(left):
            shutil.rmtree(left, ignore_errors=True)
    while True:
        made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        # Another process that starts may have taken it for one that was left.
        if _lock(made) and made.exists():
            return made


def _lock(directory: Path) -> bool:
    """Whether nobody else has the directory. The lock is kept until this process ends, however it ends."""
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
