"""The local disk: how much of it models may take, and which one goes when another is wanted."""

import logging
import os
import shutil
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

from gpu_endpoint.provision.files import is_whole
from gpu_endpoint.provision.manifest import LockFile, ModelFile

PARTIAL_SUFFIX: Final = ".partial"
"""ComfyUI lists no file of this ending."""
KEPT_FREE: Final = 0.15
"""Of the disk. RunPod's SDK ends a worker with less than a tenth of it free, and jobs need room for their files."""

_log = logging.getLogger(__name__)


class DiskUsage(NamedTuple):
    """In bytes."""

    total: int
    free: int


def disk_usage(directory: Path) -> DiskUsage:
    """Of the file system; free for this user."""
    usage = shutil.disk_usage(directory)
    return DiskUsage(usage.total, usage.free)


class LocalDisk:
    """The copies of one worker. One that has its name is whole and right; until then it has another one.

    A copy's time of modification is when it was last used.
    """

    def __init__(self, directory: Path, at_most_bytes: int | None, kept_free: float = KEPT_FREE) -> None:
        self._directory = directory
        self._at_most_bytes = at_most_bytes
        self._kept_free = kept_free
        self._changing = threading.Lock()

    def open(self, files: Collection[ModelFile], lock: LockFile) -> None:
        """Make the folders, and remove what an earlier worker left unfinished, or what is not as it must be."""
        for folder in {file.folder for file in files}:
            (self._directory / folder).mkdir(parents=True, exist_ok=True)
        for path in self._directory.rglob(f".*{PARTIAL_SUFFIX}"):
            path.unlink()
        for file in files:
            path = self.path(file)
            locked = lock.files.get(file.path)
            if path.is_file() and not (is_whole(path) and (locked is None or path.stat().st_size == locked.size_bytes)):
                path.unlink()

    def path(self, file: ModelFile) -> Path:
        """Where its copy is, or will be."""
        return self._directory / file.path

    def has(self, file: ModelFile) -> bool:
        """Whether there is a copy."""
        return self.path(file).is_file()

    def touch(self, file: ModelFile) -> None:
        """It was used now."""
        now = time.time()
        try:
            os.utime(self.path(file), (now, now))
        except FileNotFoundError:
            return  # it is read from the volume

    def take(self, file: ModelFile, size: int, keep: Collection[ModelFile], *, remove_others: bool) -> Path | None:
        """Make the unfinished file of a copy, as large as the copy, so that no other one takes the space.

        ``remove_others``: copies that were used least recently go for it, except those to keep. A process that has one
        open reads on. Returns None if there is no room.
        """
        with self._changing:
            kept = {self.path(one) for one in keep}
            others = [path for path in self._copies() if path not in kept] if remove_others else []
            if size > self._room() + sum(path.stat().st_size for path in others):
                return None
            while size > self._room() and others:
                others[0].unlink()
                _log.info("local_model_removed", extra={"path": str(others.pop(0)), "for": file.path})
            if size > self._room():
                return None  # what is removed and still open keeps its space
            partial = self._partial(file)
            with partial.open("wb") as out:
                if size:
                    os.posix_fallocate(out.fileno(), 0, size)
            return partial

    def keep(self, file: ModelFile) -> None:
        """Its unfinished file is finished and right."""
        with self._changing:
            os.replace(self._partial(file), self.path(file))

    def discard(self, file: ModelFile) -> None:
        """Its unfinished file is not wanted, if there is one."""
        with self._changing:
            self._partial(file).unlink(missing_ok=True)

    def _partial(self, file: ModelFile) -> Path:
        path = self.path(file)
        return path.with_name(f".{path.name}{PARTIAL_SUFFIX}")

    def _room(self) -> int:
        disk = disk_usage(self._directory)
        room = disk.free - int(disk.total * self._kept_free)
        if self._at_most_bytes is not None:
            room = min(room, self._at_most_bytes - sum(path.stat().st_size for path in self._files()))
        return room

    def _copies(self) -> list[Path]:
        """The least recently used first."""
        copies = [path for path in self._files() if path.suffix != PARTIAL_SUFFIX]
        return sorted(copies, key=lambda path: path.stat().st_mtime)

    def _files(self) -> list[Path]:
        return [path for path in self._directory.rglob("*") if path.is_file()]
