"""Processes that start at once, for tests that need many: each is forked from one that has imported the program.

To import a service takes longer than most of what a test lets it do. A fork server has imported it, and has no thread,
no connection and no setting. What it forks runs ``python -m MODULE`` with arguments, environment and output of its own:
signals kill and freeze it like any process, and it makes every connection itself.
Tests of the start itself, and of whole platforms, start Python.
"""

import asyncio
import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Final, NamedTuple

_CONTROL: Final = 0
"""The file descriptor on which a fork server is told to fork: its standard input."""
_STDERR: Final = 2
_MOST_SERVERS: Final = 3
"""Each takes about 100 MB. A file of tests needs two at most."""


class ForkedProcess:
    """A running process, with the methods of ``asyncio.subprocess.Process``."""

    def __init__(self, pid: int, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self._writer = writer
        self._ended = asyncio.create_task(self._read_exit_code(answers), name=f"wait for {pid}")

    @property
    def returncode(self) -> int | None:
        """None while it runs, and minus the number of the signal that killed it."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Wait for its end and return ``returncode``."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        """Send a signal. Nothing happens if it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    async def _read_exit_code(self, answers: asyncio.StreamReader) -> int:
        try:
            return int(await answers.readline())
        finally:
            self._writer.close()


class Finished(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    output: str
    errors: str


async def start_forked(
    module: str,
    *arguments: str,
    environment: Mapping[str, str],
    imports: Sequence[str] = (),
    stdout: IO[bytes] | None = None,
    stderr: IO[bytes] | None = None,
) -> ForkedProcess:
    """Run ``python -m module`` with this environment and no other; its fork server has also imported ``imports``.

    Without ``stdout`` that is dropped; without ``stderr`` it is that of this process.
    """
    channel = _fork(_fork_server(module, *imports).control, stdout, stderr)
    answers, writer = await asyncio.open_connection(sock=channel)
    writer.write(json.dumps([arguments, dict(environment)]).encode() + b"\n")
    return ForkedProcess(int(await answers.readline()), answers, writer)


async def run_forked(module: str, *arguments: str, environment: Mapping[str, str]) -> Finished:
    """Run ``python -m module`` with exactly this environment to its end."""
    with TemporaryFile() as output, TemporaryFile() as errors:
        process = await start_forked(module, *arguments, environment=environment, stdout=output, stderr=errors)
        code = await process.wait()
        said = []
        for file in (output, errors):
            file.seek(0)
            said.append(file.read().decode())
    return Finished(code, *said)


class _ForkServer:
    """A process that has imported ``modules``. It ends with this one."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self.control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen([sys.executable, "-m", __name__, *modules], stdin=theirs.fileno())

    def end(self) -> None:
        """End it; what it has forked goes on."""
        self.control.close()
        self._process.wait()


_SERVERS: Final[dict[tuple[str, ...], _ForkServer]] = {}
"""Those of this process, the one that was used last at the end."""


def _fork_server(*modules: str) -> _ForkServer:
    server = _SERVERS.pop(modules, None) or _ForkServer(modules)
    _SERVERS[modules] = server
    if len(_SERVERS) > _MOST_SERVERS:
        _SERVERS.pop(next(iter(_SERVERS))).end()
    return server


@atexit.register
def _end_all() -> None:
    for server in _SERVERS.values():
        server.end()


def _fork(control: socket.socket, stdout: IO[bytes] | None, stderr: IO[bytes] | None) -> socket.socket:
    """Have the server fork; returns the socket over which the forked process hears what it is to run."""
    ours, theirs = socket.socketpair()
    with theirs, Path(os.devnull).open("wb") as nowhere:
        errors = stderr.fileno() if stderr else _STDERR
        socket.send_fds(control, [b"\0"], [theirs.fileno(), (stdout or nowhere).fileno(), errors])
    return ours


def _serve(control: socket.socket) -> Sequence[str]:
    """Fork whenever told to. Returns in each forked process, with the arguments of its program."""
    assert threading.active_count() == 1, "a thread does not survive a fork, and may leave locks"
    # Later collections would write to the pages that are shared with what is forked.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the waiting processes
    while True:
        _, files, _, _ = socket.recv_fds(control, 1, 3)
        if not files:
            os._exit(0)
        if os.fork() == 0:
            control.detach()
            return _fork_and_wait(*files)
        for file in files:
            os.close(file)


def _fork_and_wait(channel: int, stdout: int, stderr: int) -> Sequence[str]:
    """Fork the program and return there; here, say its process id and, when it has ended, its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=channel) as peer, peer.makefile("rw") as lines:
        arguments, environment = json.loads(lines.readline())
        pid = os.fork()
        if pid:
            lines.write(f"{pid}\n")
            lines.flush()
            _, status = os.waitpid(pid, 0)
            with suppress(BrokenPipeError):
                lines.write(f"{os.waitstatus_to_exitcode(status)}\n")
                lines.flush()
            os._exit(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for target, file in enumerate((os.open(os.devnull, os.O_RDONLY), stdout, stderr)):
        os.dup2(file, target)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    return list(arguments)


if __name__ == "__main__":
    program = sys.argv[1]
    for name in sys.argv[1:]:
        import_module(name)
    sys.argv[1:] = _serve(socket.socket(fileno=_CONTROL))
    # Not the module that was imported: its code runs once more, as that of the main module.
    del sys.modules[program]
    runpy.run_module(program, run_name="__main__", alter_sys=True)
