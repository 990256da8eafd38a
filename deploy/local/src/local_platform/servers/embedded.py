"""The life of a server that runs as our child: start, stop, kill, and start again with the same ports and data."""

import asyncio
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from local_platform.servers.processes import ChildProcess, ServerFailedError, is_port_conflict, uninterrupted


class EmbeddedServer(ABC):
    """One server on 127.0.0.1. It chooses free ports at its first start and keeps them.

    ``directory`` gets its data, and its log unless ``log_file`` is given.
    """

    start_tries: ClassVar[int] = 3

    def __init__(self, directory: Path, log_file: Path) -> None:
        self.directory = directory
        self.log_file = log_file
        self._was_up = False
        self._process: ChildProcess | None = None

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def alive(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.alive()

    async def start(self) -> None:
        """Start, and return when the server is usable. Raises ServerFailedError with the end of the log."""
        await uninterrupted(self.start_blocking)

    async def stop(self) -> None:
        """Stop in order. The data stay."""
        await asyncio.to_thread(self.stop_blocking)

    def start_blocking(self) -> None:
        """:meth:`start` for callers without an event loop."""
        assert not self.alive(), "already running"
        if self._process is not None:
            self._process.kill()  # It has died; this reaps it.
        self._prepare()
        for attempt in range(1, self.start_tries + 1):
            self._choose_ports()
            try:
                self._process = self._launch()
            except ServerFailedError as error:
                if attempt == self.start_tries or not self._may_retry(error):
                    raise
            else:
                self._was_up = True
                return

    def stop_blocking(self) -> None:
        """:meth:`stop` for callers without an event loop."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """SIGKILL. The data stay as they are at that moment."""
        assert self._process is not None, "the server does not run"
        self._process.kill()
        self._process = None

    @abstractmethod
    def _prepare(self) -> None:
        """Create the directories. Called before every start."""

    @abstractmethod
    def _choose_ports(self) -> None:
        """Choose ports, unless they are chosen already."""

    @abstractmethod
    def _forget_ports(self) -> None:
        """Let the next :meth:`_choose_ports` choose again."""

    @abstractmethod
    def _launch(self) -> ChildProcess:
        """Start the process and wait until it is usable. Raises ServerFailedError."""

    def _may_retry(self, error: ServerFailedError) -> bool:
        # Once clients know the ports, other ports do not help them.
        if self._was_up or not is_port_conflict(error):
            return False
        self._forget_ports()
        return True
