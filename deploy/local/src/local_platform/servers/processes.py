"""Child processes: they die with this process, their log can be quoted, and they can be killed at any moment."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from local_platform.guardian import GUARDIAN

_POLL_SECONDS = 0.02
_TAIL_BYTES = 65_536


class ServerFailedError(RuntimeError):
    """A process ended, or was not ready in time. The message contains the end of its log."""


class ChildProcess:
    """One process in its own session, with its output in a log file, watched by the guardian.

    The guardian sends ``orphan_signal`` if this process vanishes. ``run_as`` is the (user id, group id) to run it as.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log_file: Path,
        environment: Mapping[str, str],
        directory: Path,
        orphan_signal: signal.Signals = signal.SIGKILL,
        run_as: tuple[int, int] | None = None,
    ) -> None:
        self.name = Path(command[0]).name
        self.log_file = log_file
        log_file.parent.mkdir(parents=True, exist_ok=True)
        user, group = run_as or (None, None)
        with log_file.open("ab") as log:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=directory,
                start_new_session=True,
                user=user,
                group=group,
                extra_groups=[] if run_as else None,
            )
        GUARDIAN.watch(self.pid, orphan_signal)

    @property
    def pid(self) -> int:
        """Process id; also the id of its process group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended: None while it runs, and minus the number of the signal that killed it."""
        return self._process.poll()

    def alive(self) -> bool:
        """Whether the process runs. A zombie does not."""
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process alone. Nothing happens if it has ended."""
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_seconds: float = 10.0) -> None:
        """Send a signal, kill the whole group if the process does not end in time, and reap it."""
        if self.alive():
            self.send(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_seconds)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group, at once, and reap."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        GUARDIAN.forget(self.pid)

    def wait_until(self, ready: Callable[[], bool], timeout_seconds: float) -> None:
        """Poll ``ready`` until it is true.

        Raises ServerFailedError with the end of the log when the process ends first or time is up; the process is
        killed then.
        """
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            reason = None
            if not self.alive():
                reason = f"ended with exit code {self._process.returncode}"
            elif time.monotonic() > deadline:
                reason = f"was not ready after {timeout_seconds:.0f} s"
            if reason:
                self.kill()
                raise ServerFailedError(f"{self.name} {reason}\n{last_lines(self.log_file)}")
            time.sleep(_POLL_SECONDS)


def last_lines(log_file: Path, count: int = 25) -> str:
    """The end of a log, indented, for error messages."""
    if not log_file.exists():
        return "    (no log)"
    with log_file.open("rb") as log:
        log.seek(0, os.SEEK_END)
        log.seek(max(0, log.tell() - _TAIL_BYTES))
        lines = log.read().decode("utf-8", "replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-count:]) or "    (the log is empty)"


def is_port_conflict(error: ServerFailedError) -> bool:
    """Whether a start failed because another program took the port in between."""
    return "address already in use" in str(error).lower()


async def uninterrupted(blocking: Callable[[], None]) -> None:
    """Run ``blocking`` in a thread. A cancellation takes effect after it has ended.

    Otherwise a server could come up after everything else was stopped, and be left behind.
    """
    task = asyncio.ensure_future(asyncio.to_thread(blocking))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
