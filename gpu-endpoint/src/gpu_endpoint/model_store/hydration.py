"""Copying model files to the local disk in the background: several at once, the most wanted first."""

import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gpu_endpoint.model_store.copying import RateLimit, SourceDamaged, Stopped, copy_verified
from gpu_endpoint.model_store.local_disk import LocalDisk
from gpu_endpoint.model_store.sources import Sources
from gpu_endpoint.provision.files import quarantine
from gpu_endpoint.provision.manifest import LockFile, ModelFile

_READS_AT_MOST: Final = 2
"""What is damaged twice is damaged where it lies, and not on its way."""

_log = logging.getLogger(__name__)


@dataclass
class _Progress:
    """Under the condition. What is wanted is copied from the left; what is in ``open`` is wanted or being copied."""

    wanted: deque[ModelFile] = field(default_factory=deque)
    open: set[str] = field(default_factory=set)
    copied_files: int = 0
    copied_bytes: int = 0


class Hydration:
    """Threads, because they live through the start's event loop and the jobs'."""

    def __init__(
        self, sources: Sources, disk: LocalDisk, lock: LockFile, pinned: Collection[ModelFile], limit: RateLimit
    ) -> None:
        self._sources = sources
        self._disk = disk
        self._lock = lock
        self._pinned = tuple(pinned)
        self._limit = limit
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._progress = _Progress()
        self._last_used: tuple[ModelFile, ...] = ()

    def start(self, files: Iterable[ModelFile], parallel: int) -> None:
        """Begin with these, in this order. The threads end with the process."""
        self._began_at = time.monotonic()
        self._want(files, first=False)
        for number in range(parallel):
            threading.Thread(target=self._run, daemon=True, name=f"hydration-{number}").start()

    def stop(self) -> None:
        """Begin nothing more. What is unfinished is removed."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()

    def use(self, files: Collection[ModelFile]) -> None:
        """A job has used these. Those that are not here are wanted next, and others go for them."""
        self._last_used = tuple(files)
        for file in files:
            self._disk.touch(file)
        self._want((file for file in files if not self._disk.has(file)), first=True)

    def wait(self, files: Collection[ModelFile], seconds: float) -> bool:
        """Wait until none of these is to be copied any more. False if the time is over before."""
        paths = {file.path for file in files}
        with self._changed:
            return self._changed.wait_for(lambda: not paths & self._progress.open, timeout=seconds)

    def _want(self, files: Iterable[ModelFile], *, first: bool) -> None:
        with self._changed:
            new = [file for file in files if file.path not in self._progress.open]
            self._progress.open |= {file.path for file in new}
            if first:
                self._progress.wanted.extendleft(reversed(new))
            else:
                self._progress.wanted.extend(new)
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._progress.wanted or self._stop.is_set())
                if self._stop.is_set():
                    return
                file = self._progress.wanted.popleft()
            try:
                self._bring(file)
            except Stopped:
                return
            except OSError as error:
                _log.error("model_file_not_copied", extra={"path": file.path, "reason": str(error)})
            finally:
                self._disk.discard(file)
                self._close(file)

    def _close(self, file: ModelFile) -> None:
        with self._changed:
            self._progress.open.discard(file.path)
            if not self._progress.open:
                facts = {"files": self._progress.copied_files, "bytes": self._progress.copied_bytes}
                seconds = round(time.monotonic() - self._began_at, 3)
                _log.info("hydration_finished", extra=facts | {"seconds_since_start": seconds})
            self._changed.notify_all()

    def _bring(self, file: ModelFile) -> None:
        if self._disk.has(file):
            return
        # What is nowhere was named by the check at the start.
        for source in self._sources.find(file):
            try:
                self._copy(file, source)
            except SourceDamaged as damage:
                self._put_away(file, source, str(damage))
            else:
                return

    def _copy(self, file: ModelFile, source: Path) -> None:
        began = time.monotonic()
        locked = self._lock.files.get(file.path)
        size = source.stat().st_size
        if locked is not None and size != locked.size_bytes:
            raise SourceDamaged(f"{size} bytes instead of {locked.size_bytes}")
        for read in range(1, _READS_AT_MOST + 1):
            keep = (*self._pinned, *self._last_used)
            partial = self._disk.take(file, size, keep, remove_others=file in keep)
            if partial is None:
                _log.info("model_file_has_no_room", extra={"path": file.path, "bytes": size})
                return
            try:
                copy_verified(source, partial, self._lock.expected(file), self._limit, self._stop)
            except SourceDamaged:
                if read == _READS_AT_MOST:
                    raise
            else:
                break
        self._disk.keep(file)
        seconds = round(time.monotonic() - began, 3)
        _log.info("model_file_copied", extra={"path": file.path, "bytes": size, "seconds": seconds})
        with self._changed:
            self._progress.copied_files += 1
            self._progress.copied_bytes += size

    def _put_away(self, file: ModelFile, source: Path, reason: str) -> None:
        """Let nobody use it, and say so. The host's cache is not ours to change."""
        on_volume = source == self._sources.volume / file.path
        if on_volume:
            quarantine(self._sources.volume, source)
        facts = {"path": file.path, "reason": reason, "at": str(source), "quarantined": on_volume}
        _log.error("model_file_damaged", extra=facts)
