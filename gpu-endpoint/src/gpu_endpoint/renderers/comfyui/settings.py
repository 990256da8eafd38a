"""Where ComfyUI is, and how patient the driver is with it."""

import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_WITHHELD_PREFIXES: Final = ("RUNPOD_", "AWS_")
"""What the worker is told in the environment and a custom node has no business to read."""


@dataclass(frozen=True, kw_only=True)
class ComfyUISettings:
    """Times are in seconds."""

    checkout: Path
    """The directory of ComfyUI's ``main.py``."""
    python: Path
    """The interpreter that has ComfyUI's requirements."""
    work_directory: Path
    """Input, output, temporary and user files. On the file system of ``TMPDIR`` outputs are moved, not copied."""
    arguments: tuple[str, ...] = ()
    """More of ComfyUI's own command line, such as ``--cpu`` or ``--extra-model-paths-config FILE``."""
    environment: Mapping[str, str]
    """Of the process."""

    boot_seconds: float = 300.0
    """Longest start. RunPod gives up on a worker after 420."""
    stop_seconds: float = 5.0
    """From an interrupt until the process is killed."""
    poll_seconds: float = 1.0
    answer_seconds: float = 10.0
    """Longest wait for the answer of one call."""
    unreachable_seconds: float = 60.0
    """Without any answer over HTTP, a live process has hung. A long call that holds Python's lock lasts less."""
    silence_seconds: float = 600.0
    """Without any progress of a running prompt, it has hung. Reading a model from a slow volume lasts less."""
    listen_again_seconds: float = 15.0
    """Without a message, the socket is opened anew: a socket that ComfyUI forgot stays silent for ever."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "ComfyUISettings":
        """Read ``COMFYUI_DIRECTORY`` and the optional rest. Raises ValueError, naming the variable."""
        checkout = Path(environment.get("COMFYUI_DIRECTORY", ""))
        if not (checkout / "main.py").is_file():
            raise ValueError("COMFYUI_DIRECTORY must be a directory with ComfyUI's main.py")
        python = Path(environment.get("COMFYUI_PYTHON") or checkout / ".venv/bin/python")
        if not python.exists():
            raise ValueError("COMFYUI_PYTHON must be the Python interpreter of ComfyUI")
        work = environment.get("COMFYUI_WORK_DIRECTORY")
        patience = {}
        for name in ("boot_seconds", "unreachable_seconds", "silence_seconds"):
            variable = f"COMFYUI_{name.upper()}"
            if variable in environment:
                try:
                    patience[name] = float(environment[variable])
                except ValueError as error:
                    raise ValueError(f"{variable} must be a number of seconds") from error
        return cls(
            checkout=checkout,
            python=python,
            work_directory=Path(work) if work else Path(tempfile.mkdtemp(prefix="comfyui-")),
            arguments=tuple(shlex.split(environment.get("COMFYUI_ARGUMENTS", ""))),
            environment={name: value for name, value in environment.items() if not name.startswith(_WITHHELD_PREFIXES)},
            **patience,
        )
