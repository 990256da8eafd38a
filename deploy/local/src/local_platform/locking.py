"""One supervisor for each platform name, and the cleaning up after a killed one."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from local_platform.description import FILE_NAME, PlatformDescription

LOCK_FILE_NAME = "lock"


class PlatformAlreadyRunsError(RuntimeError):
    """Another supervisor has the lock of this name."""

    def __init__(self, directory: Path) -> None:
        name = directory.name
        super().__init__(
            f"a platform named {name!r} runs already ({directory}); `make down NAME={name}` stops it, "
            "another NAME= starts a second one"
        )


class PlatformLock:
    """A lock that the kernel releases when its process ends, however it ends. So there are no stale locks."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_FILE_NAME
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Take it or raise PlatformAlreadyRunsError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise PlatformAlreadyRunsError(self._path.parent) from error
        self._file = file

    def release(self) -> None:
        """Release it. Harmless if it was never taken."""
        if self._file is not None:
            # Unlinked before it is released, so that the next supervisor makes a new file.
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


def is_locked(directory: Path) -> bool:
    """Whether a supervisor runs in ``directory``."""
    with contextlib.suppress(FileNotFoundError), _opened(directory / LOCK_FILE_NAME) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    with path.open("r") as file:
        yield file


def remove_leftovers(directory: Path) -> PlatformDescription | None:
    """Remove the files of a killed supervisor, whose guardian has ended the processes. Returns its description.

    Call it only with the lock, or if ``is_locked`` is false.
    """
    path = directory / FILE_NAME
    if not path.exists():
        return None
    description = None
    with contextlib.suppress(msgspec.DecodeError):
        description = msgspec.json.decode(path.read_bytes(), type=PlatformDescription)
        shutil.rmtree(description.data_directory, ignore_errors=True)
    path.unlink(missing_ok=True)
    return description
