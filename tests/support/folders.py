"""Temporary directories that go even if the test session is killed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local_platform.guardian import GUARDIAN
from local_platform.servers.binaries import temporary_directory


@contextmanager
def removed_at_exit(prefix: str) -> Iterator[Path]:
    """A short path (sockets like that) that other users may enter (PostgreSQL runs as one when we are root)."""
    directory = temporary_directory(prefix)
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        GUARDIAN.keep(directory)
