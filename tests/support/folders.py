"""Temporary directories that go even if the test session is killed."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local_platform.guardian import GUARDIAN
from local_platform.servers.binaries import temporary_directory

_MEMORY = Path("/dev/shm")  # Linux's file system in memory
_ROOM_BYTES = 8 << 30
"""What four test processes need is far less; a test that runs wild is not to fill the memory."""


def quickest_parent() -> Path:
    """Where the files of test servers live: in memory if that has room, for most of a test is to clone a database."""
    if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES:
        return _MEMORY
    return Path(tempfile.gettempdir())


@contextmanager
def removed_at_exit(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A short path (sockets like that) that other users may enter (PostgreSQL runs as one when we are root)."""
    directory = temporary_directory(prefix, parent)
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        GUARDIAN.keep(directory)
