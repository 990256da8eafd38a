"""What this worker is: its GPU, its id at RunPod, and how long it took to start. Every report says it."""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote_plus

_STAT: Final = Path("/proc/self/stat")
_START_TIME: Final = 19
"""Of the fields after the process's name: when it began, in ticks since the machine booted."""


class Machine:
    """One per worker. ``gpu`` is the name of its GPU, as RunPod and the driver write it; None without one."""

    def __init__(self, gpu: str | None, worker_id: str | None, start_seconds: float) -> None:
        self._known = {"gpu": gpu, "worker_id": worker_id}
        self._start_seconds = start_seconds

    @classmethod
    def started_now(cls, environment: Mapping[str, str]) -> "Machine":
        """The machine of this process, which is ready for its first job."""
        gpu = unquote_plus(environment.get("RUNPOD_GPU_NAME", "")) or _name_of_driver()
        return cls(gpu, environment.get("RUNPOD_POD_ID") or None, process_seconds())

    def job_facts(self) -> dict[str, int | float | str]:
        """For the report of the job that begins now. Only the first job of a worker had to wait for its start."""
        start_seconds, self._start_seconds = self._start_seconds, 0.0
        known = {name: value for name, value in self._known.items() if value is not None}
        return {**known, "cold_start_seconds": round(start_seconds, 3)}


def process_seconds() -> float:
    """How long this process has run. Where the kernel does not say it, since Python's clock began."""
    if not _STAT.exists():
        return time.perf_counter()
    # The name of the process may hold spaces and brackets; the last bracket ends it.
    after_name = _STAT.read_text().rpartition(")")[2].split()
    began = int(after_name[_START_TIME]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)


def _name_of_driver() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 - a constant
    except (OSError, subprocess.SubprocessError):
        return None
    return next((name.strip() for name in told.stdout.splitlines() if name.strip()), None)
