"""Where the model files are, and how they come to the local disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HUB_CACHE: Final = Path("/runpod-volume/huggingface-cache/hub")
"""Where RunPod places the models that an endpoint has chosen as cached ones."""
_MIB: Final = 2**20
_GIB: Final = 2**30


@dataclass(frozen=True, kw_only=True)
class ModelStoreSettings:
    """``local`` is None where nothing is copied. Then a job reads from the volume."""

    volume: Path
    manifest: Path
    lock: Path
    warm_ups: Path
    hub_cache: Path = HUB_CACHE
    local: Path | None = None
    """It belongs to this worker alone."""
    local_bytes: int | None = None
    """What it may hold at most; without it, the disk decides."""
    pinned: tuple[str, ...] = ()
    """Models, the most wanted first: copied first, never removed, and warmed up before the first job."""
    required: tuple[str, ...] = ()
    """Models without which the worker does not start. If none is named, one usable model is enough."""
    parallel: int = 4
    bytes_per_second: int = 1000 * _MIB
    """Of all copies together. Faster than most volumes; a neighbour on the host wants some, too."""
    start_seconds: float = 300.0
    """For copies and warm-ups before the first job. RunPod gives up on a start after 420."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "ModelStoreSettings | None":
        """None without ``MODELS_DIRECTORY``. Raises ValueError, naming the variable."""
        if not environment.get("MODELS_DIRECTORY"):
            return None
        local = environment.get("LOCAL_MODELS_DIRECTORY")
        local_gib = _number(environment, "LOCAL_MODELS_GIB", 0)
        return cls(
            volume=Path(environment["MODELS_DIRECTORY"]),
            manifest=Path(environment.get("MODELS_MANIFEST", "models.json")),
            lock=Path(environment.get("MODELS_LOCK", "models.lock.json")),
            warm_ups=Path(environment.get("WARM_UPS", "warm_ups.json")),
            hub_cache=Path(environment.get("HUB_CACHE_DIRECTORY") or HUB_CACHE),
            local=Path(local) if local else None,
            local_bytes=int(local_gib * _GIB) or None,
            pinned=tuple(environment.get("PINNED_MODELS", "").split()),
            required=tuple(environment.get("REQUIRED_MODELS", "").split()),
            parallel=int(_number(environment, "HYDRATION_FILES", cls.parallel)),
            bytes_per_second=int(_number(environment, "HYDRATION_MIB_PER_SECOND", cls.bytes_per_second / _MIB) * _MIB),
            start_seconds=_number(environment, "WARM_UP_SECONDS", cls.start_seconds),
        )


def _number(environment: Mapping[str, str], variable: str, default: float) -> float:
    text = environment.get(variable)
    if not text:
        return default
    try:
        number = float(text)
    except ValueError as error:
        raise ValueError(f"{variable} must be a number") from error
    if number <= 0:
        raise ValueError(f"{variable} must be more than 0")
    return number
