"""A small pool of warm decoder processes: a file that crashes or stalls one costs that file, and not the service."""

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final

from storage.errors import DecoderFailed
from storage.inspection import Inspection, inspect, limit_resources

TIMEOUT_SECONDS: Final = 60.0
FILES_PER_PROCESS: Final = 200
"""Decoders leak a little: a process is replaced after so many files."""


class Decoders:
    """``processes`` files are decoded at a time; each look is bounded in time and memory."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None

    async def inspect(self, path: Path, largest_pixels: int) -> Inspection:
        """Decode a file. Raises ``Rejected`` for a bad one, ``DecoderFailed`` where the decoder died or ran late."""
        loop = asyncio.get_running_loop()
        pool = self._pool = self._pool or self._new_pool()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await loop.run_in_executor(pool, inspect, str(path), largest_pixels)
        except (TimeoutError, BrokenProcessPool) as error:
            self._discard(pool)
            raise DecoderFailed(type(error).__name__) from error

    async def warm(self) -> None:
        """Start the processes before the first file comes."""
        pool = self._pool = self._pool or self._new_pool()
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(pool, _ready) for _ in range(self._processes)))

    def close(self) -> None:
        """End every process now."""
        if self._pool is not None:
            self._discard(self._pool)

    def _new_pool(self) -> ProcessPoolExecutor:
        # Spawned, not forked: a fork would copy the event loop's threads and sockets.
        return ProcessPoolExecutor(
            self._processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=limit_resources,
            max_tasks_per_child=FILES_PER_PROCESS,
        )

    def _discard(self, pool: ProcessPoolExecutor) -> None:
        if self._pool is pool:
            self._pool = None
        # The pool has no public way to end a process that does not come back.
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)


def _ready() -> bool:
    return True
