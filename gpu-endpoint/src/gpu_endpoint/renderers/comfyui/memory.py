"""The most memory that a job used: of the process exactly, as the kernel counts it; of the GPU as it was sampled."""

from pathlib import Path

from gpu_endpoint.renderers.comfyui.client import SystemStats

_RESET_PEAK = "5"
_KIBIBYTE = 1024


class PeakMemory:
    """Of one job, over all processes that served it."""

    def __init__(self) -> None:
        self._ram_bytes = 0
        self._vram_bytes = 0

    def begin(self, pid: int | None) -> None:
        """Count the process's peak from now on. Where the kernel does not let us, the peak is that since its start."""
        if pid is not None:
            try:
                Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
            except OSError:
                return

    def sample(self, stats: SystemStats | None, pid: int | None) -> None:
        """Look now."""
        if stats is not None:
            self._vram_bytes = max(self._vram_bytes, stats.used_vram_bytes)
        if pid is not None:
            self._ram_bytes = max(self._ram_bytes, _peak_rss_bytes(pid))

    def facts(self) -> dict[str, int]:
        """What goes into the report."""
        return {"peak_ram_bytes": self._ram_bytes, "peak_vram_bytes": self._vram_bytes}


def _peak_rss_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0  # it is gone
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * _KIBIBYTE
    return 0
