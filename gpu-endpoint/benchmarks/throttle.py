"""A file store that is as slow as it is told to be: a file system of its own, and the kernel's limit on reads of it.

The limit holds for what the processes of a cgroup read from that file system and what is not in memory. Their programs
and the local disk lie elsewhere and are not slowed. Needs root, loop devices, mkfs.ext4 and cgroups, version 1 or 2.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

_GROUPS: Final = Path("/sys/fs/cgroup")
_MIB: Final = 2**20


class NotThrottled(Exception):
    """This machine does not let us."""


class SlowStore:
    """A mounted directory."""

    def __init__(self, directory: Path, size_mib: int, bytes_per_second: int) -> None:
        self.directory = directory
        self._image = directory.with_suffix(".image")
        self._mounted = False
        name = f"bench-start-{os.getpid()}"
        self._first_version = (_GROUPS / "blkio").is_dir()
        self._group = _GROUPS / "blkio" / name if self._first_version else _GROUPS / name
        try:
            self._mount(size_mib)
            self._limit(bytes_per_second)
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            raise NotThrottled(str(error)) from error

    def join(self) -> Callable[[], None]:
        """For a new process, to call before it becomes another program."""
        path = self._group / "cgroup.procs"
        return lambda: _write(path, "0")

    def forget(self) -> None:
        """Put its files out of memory, so that the next read is one of the store."""
        for path in self.directory.rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)

    def close(self) -> None:
        """Unmount it. Its processes must be gone."""
        if self._mounted:
            subprocess.run(["umount", self.directory], check=True)
        if self._group.is_dir():
            self._group.rmdir()

    def _mount(self, size_mib: int) -> None:
        with self._image.open("wb") as image:
            image.truncate(size_mib * _MIB)
        subprocess.run(["mkfs.ext4", "-q", "-F", self._image], check=True)
        self.directory.mkdir()
        subprocess.run(["mount", "-o", "loop", self._image, self.directory], check=True)
        self._mounted = True

    def _limit(self, bytes_per_second: int) -> None:
        number = os.stat(self.directory).st_dev
        device = f"{os.major(number)}:{os.minor(number)}"
        if self._first_version:
            self._group.mkdir()
            (self._group / "blkio.throttle.read_bps_device").write_text(f"{device} {bytes_per_second}")
        else:
            (_GROUPS / "cgroup.subtree_control").write_text("+io")
            self._group.mkdir()
            (self._group / "io.max").write_text(f"{device} rbps={bytes_per_second}")


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, text.encode())
    os.close(descriptor)
