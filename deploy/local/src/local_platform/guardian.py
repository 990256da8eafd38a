"""A small process that outlives its parent by a moment and ends what the parent left behind.

A program that is killed with -9 cannot clean up. The guardian has the read end of a pipe, and only the parent has its
write end. The pipe ends when the parent ends, for whatever reason. Then the guardian kills the registered process
groups and removes the registered paths. It works on Linux and macOS, needs no privileges, and imports only the
standard library, so that it starts fast.

Each line on the pipe is ``watch <pgid> <signal>``, ``forget <pgid>``, ``remove <path>`` or ``keep <path>``.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

_GRACE_SECONDS = 6.0
"""The time that a group gets after its signal, before it is killed. PostgreSQL kills its own children after 5 s."""


class Guardian:
    """What is to be cleaned up if this process vanishes. Can be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe: IO[str] | None = None
        self._owner_pid = 0

    def watch(self, group: int, signal_number: int = signal.SIGKILL) -> None:
        """End the process group ``group`` with ``signal_number`` (and later SIGKILL) when this process is gone."""
        self._send(f"watch {group} {int(signal_number)}")

    def forget(self, group: int) -> None:
        """The group has ended and was reaped. Its number can belong to another group from now on."""
        self._send(f"forget {group}")

    def remove(self, path: Path) -> None:
        """Delete ``path`` when this process is gone."""
        self._send(f"remove {path}")

    def keep(self, path: Path) -> None:
        """Take back :meth:`remove`."""
        self._send(f"keep {path}")

    def _send(self, line: str) -> None:
        with self._lock:
            pipe = self._open()
            pipe.write(line + "\n")
            pipe.flush()

    def _open(self) -> IO[str]:
        # After a fork, the child must not use the pipe of its parent.
        if self._pipe is None or self._owner_pid != os.getpid():
            self._pipe = _start_process()
            self._owner_pid = os.getpid()
        return self._pipe


def _start_process() -> IO[str]:
    read_end, write_end = os.pipe()
    # It has its own session: Ctrl-C and signals to the parent's group must not reach it. It is a grandchild, so that
    # the parent does not have to wait for it.
    launcher = f"import os, sys; os.fork() and os._exit(0); os.execv(sys.executable, {_command()!r})"
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", launcher],
        stdin=read_end,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        check=True,
        cwd="/",
    )
    os.close(read_end)
    return os.fdopen(write_end, "w", encoding="utf-8")


def _command() -> list[str]:
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve())]


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # macOS raises this for a group of zombies, which cannot be killed any more.
        return False
    return True


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _end(groups: dict[int, int]) -> None:
    for group, number in groups.items():
        _signal(group, number)
    deadline = time.monotonic() + _GRACE_SECONDS
    while any(_alive(group) for group in groups) and time.monotonic() < deadline:
        time.sleep(0.05)
    for group in groups:
        _signal(group, signal.SIGKILL)


def _remove(paths: set[str]) -> None:
    for path in paths:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: dict[int, int] = {}
    paths: set[str] = set()
    for line in sys.stdin:
        verb, _, rest = line.rstrip("\n").partition(" ")
        if verb == "watch":
            group, number = rest.split()
            groups[int(group)] = int(number)
        elif verb == "forget":
            groups.pop(int(rest), None)
        elif verb == "remove":
            paths.add(rest)
        elif verb == "keep":
            paths.discard(rest)
    _end(groups)
    _remove(paths)


GUARDIAN = Guardian()
"""The guardian of this process. It starts when it is first used."""

if __name__ == "__main__":
    _main()
