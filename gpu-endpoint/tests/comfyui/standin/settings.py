"""The stand-in's command line: the part of ComfyUI's that matters, and how it shall behave."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class StandInSettings:
    """As ComfyUI's where ComfyUI has it; times in seconds."""

    port: int
    input_directory: Path
    output_directory: Path
    temp_directory: Path
    user_directory: Path
    disable_metadata: bool
    cpu: bool
    step_seconds: float
    save_seconds: float
    boot_seconds: float
    validation_seconds: float
    file_bytes: int
    broken_boots: int


def parse(arguments: Sequence[str]) -> StandInSettings:
    """What ComfyUI has and the stand-in has not is ignored; what ComfyUI has not, it refuses."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", choices=["127.0.0.1"], required=True)
    parser.add_argument("--port", type=int, required=True)
    for name in ("input", "output", "temp", "user"):
        parser.add_argument(f"--{name}-directory", type=Path, required=True)
    parser.add_argument("--database-url", choices=["sqlite:///:memory:"], required=True)
    parser.add_argument("--preview-method", choices=["latent2rgb"], required=True)
    parser.add_argument("--preview-size", type=int, required=True)
    parser.add_argument("--extra-model-paths-config", type=Path)
    for flag in ("disable-auto-launch", "disable-api-nodes", "disable-metadata", "cpu"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--standin-step-seconds", type=float, default=0.01)
    parser.add_argument("--standin-save-seconds", type=float, default=0.0)
    parser.add_argument("--standin-boot-seconds", type=float, default=0.0)
    parser.add_argument("--standin-validation-seconds", type=float, default=0.0)
    parser.add_argument("--standin-file-bytes", type=int, default=4096)
    parser.add_argument("--standin-broken-boots", type=int, default=0)
    found = parser.parse_args(arguments)
    return StandInSettings(
        port=found.port,
        input_directory=found.input_directory,
        output_directory=found.output_directory,
        temp_directory=found.temp_directory / "temp",
        user_directory=found.user_directory,
        disable_metadata=found.disable_metadata,
        cpu=found.cpu,
        step_seconds=found.standin_step_seconds,
        save_seconds=found.standin_save_seconds,
        boot_seconds=found.standin_boot_seconds,
        validation_seconds=found.standin_validation_seconds,
        file_bytes=found.standin_file_bytes,
        broken_boots=found.standin_broken_boots,
    )
