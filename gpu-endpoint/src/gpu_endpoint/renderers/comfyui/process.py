"""ComfyUI as a process: started with pinned flags, waited for, killed with all its children."""

import asyncio
import contextlib
import logging
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Final

from gpu_endpoint.failures import WorkerUnavailable
from gpu_endpoint.redaction import Redactor
from gpu_endpoint.renderers.comfyui.client import ComfyUIClient, Unreachable
from gpu_endpoint.renderers.comfyui.settings import ComfyUISettings

PREVIEW_PIXELS: Final = 320
"""The longer side of a preview picture."""

_LAUNCHER: Final = Path(__file__).with_name("launcher.py")
_READY_POLL_SECONDS: Final = 0.05
_REMEMBERED_LINES: Final = 40
_READ_OUT_SECONDS: Final = 2.0
"""Until the output of one that has ended is read. A child that lives on may keep it open."""
_PORTS: Final = range(10_000, 16_000)
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")

_log = logging.getLogger(__name__)


class ComfyUIProcess:
    """At most one ComfyUI at a time, on a free port of this machine only.

    Its output is read and kept in memory, as it holds users' words: the last lines are told, redacted, when it dies.
    """

    def __init__(self, settings: ComfyUISettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: deque[str] = deque(maxlen=_REMEMBERED_LINES)
        self._reader: threading.Thread | None = None
        self._starting: asyncio.Task[None] | None = None
        self._clearing = threading.Lock()
        self._ready = False
        self.url = ""
        self.version = ""
        self.boots = 0

    @property
    def input_directory(self) -> Path:
        """Where ComfyUI reads the files that a workflow names."""
        return self._settings.work_directory / "input"

    @property
    def output_directory(self) -> Path:
        """Where ComfyUI writes."""
        return self._settings.work_directory / "output"

    @property
    def alive(self) -> bool:
        """Whether the process runs, be it ready or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def starting(self) -> bool:
        """Whether a new one is on its way."""
        return self._starting is not None and not self._starting.done()

    @property
    def killed_by_the_system(self) -> bool:
        """Whether it died of a kill that was not ours: the kernel's, when memory ran out."""
        return self._process is not None and self._process.poll() == -signal.SIGKILL

    @property
    def pid(self) -> int | None:
        """The process id of the newest process, dead or alive."""
        return None if self._process is None else self._process.pid

    async def read_out(self) -> None:
        """Return when the output of a process that has ended is read to its end."""
        if self._reader is not None:
            await asyncio.to_thread(self._reader.join, _READ_OUT_SECONDS)

    def last_words(self, lines: int = 3) -> str:
        """The end of its output, as far as it is read, as it is: redact it before anybody reads it."""
        return " | ".join(list(self._lines)[-lines:]) or "no output"

    async def ready(self) -> None:
        """Return when it answers; start it if it does not run. Raises WorkerUnavailable."""
        if self._ready and self.alive:
            return
        self.start_soon()
        assert self._starting is not None
        await asyncio.shield(self._starting)

    def start_soon(self) -> None:
        """Begin to start it, unless that has begun, for the next job to find it ready; ``ready`` tells how it went."""
        if self.starting:
            return
        self._starting = asyncio.create_task(self._start())
        self._starting.add_done_callback(_retrieved)

    async def kill(self) -> None:
        """End it and all its children now, and wait until they are gone."""
        self._ready = False
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)

    def clear(self) -> None:
        """Empty the directories of input, output and temporary files, and make those that are missing."""
        work = self._settings.work_directory
        (work / "user").mkdir(parents=True, exist_ok=True)
        with self._clearing:
            for directory in (self.input_directory, self.output_directory, work / "temp"):
                directory.mkdir(exist_ok=True)
                for entry in os.scandir(directory):
                    _remove(entry)

    async def _start(self) -> None:
        await self.kill()
        # What a killed one left behind: it empties only its temporary directory by itself.
        await asyncio.to_thread(self.clear)
        began = time.monotonic()
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._lines.clear()
        self.boots += 1
        self._spawn(port)
        try:
            await self._wait_until_ready(began)
        except (asyncio.CancelledError, WorkerUnavailable):
            await self.kill()
            raise
        self._ready = True
        seconds = round(time.monotonic() - began, 3)
        _log.info("comfyui_ready", extra={"seconds": seconds, "version": self.version, "pid": self.pid})

    async def _wait_until_ready(self, began: float) -> None:
        async with ComfyUIClient(self.url, self._settings.answer_seconds) as client:
            while True:
                try:
                    self.version = (await client.stats()).system.comfyui_version
                except Unreachable:
                    pass
                else:
                    return
                if not self.alive:
                    await self.read_out()
                    raise _not_started(f"ComfyUI ended while it started: {Redactor({})(self.last_words(lines=8))}")
                if time.monotonic() - began > self._settings.boot_seconds:
                    raise _not_started(f"ComfyUI was not ready after {self._settings.boot_seconds:.0f} s")
                await asyncio.sleep(_READY_POLL_SECONDS)

    def _spawn(self, port: int) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - the command is the operator's
            self._command(port),
            cwd=self._settings.checkout,
            env=dict(self._settings.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        output = self._process.stdout
        self._reader = threading.Thread(target=self._read, args=(output,), daemon=True, name="comfyui-output")
        self._reader.start()

    def _command(self, port: int) -> list[str]:
        work = self._settings.work_directory.resolve()
        return [
            # Not resolved: an environment's interpreter is a link, and knows its packages by where the link lies.
            str(self._settings.python.absolute()),
            *(str(_LAUNCHER), str(os.getpid()), str(port)),
            "main.py",
            *("--listen", "127.0.0.1", "--port", str(port)),
            *("--input-directory", str(work / "input"), "--output-directory", str(work / "output")),
            # ComfyUI makes a directory "temp" in the one that it is told.
            *("--temp-directory", str(work), "--user-directory", str(work / "user")),
            *("--database-url", "sqlite:///:memory:"),
            *("--preview-method", "latent2rgb", "--preview-size", str(PREVIEW_PIXELS)),
            *("--disable-auto-launch", "--disable-api-nodes", "--disable-metadata"),
            *self._settings.arguments,
        ]

    def _read(self, output: IO[bytes]) -> None:
        """In a thread of its own: a pipe that nobody reads would stop the process."""
        with output:
            for line in output:
                # Without colours, and of a progress bar only how it ended.
                text = _COLOUR.sub("", line.decode(errors="replace").rstrip().rsplit("\r", 1)[-1]).strip()
                self._lines.append(text)
                if not self._ready and "IMPORT FAILED" in text:
                    _log.warning("custom_node_not_imported", extra={"line": text})


def _remove(entry: "os.DirEntry[str]") -> None:
    # A starting ComfyUI empties its temporary directory, too.
    with contextlib.suppress(FileNotFoundError):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry)
        else:
            os.unlink(entry)


def _not_started(detail: str) -> WorkerUnavailable:
    failure = WorkerUnavailable(detail)
    failure.replace_worker = True
    return failure


def _retrieved(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("comfyui_not_started", extra={"reason": str(error)})


def _free_port() -> int:
    """A free port, not of those from which the system serves outgoing connections: one could take it before ComfyUI."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise _not_started(f"no port between {_PORTS.start} and {_PORTS.stop} is free")
