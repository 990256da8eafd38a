"""A worker's settings for a real ComfyUI with tiny random weights for every model of the catalogue.

On the CPU, or on a GPU with ``COMFYUI_DEVICE=cuda``; ``COMFYUI_ARGUMENTS`` are more of ComfyUI's own.
"""

import os
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TINY_WEIGHTS = REPOSITORY / "gpu-endpoint/comfyui_real/tiny_weights.py"
MODELS = REPOSITORY / "libs/catalogue/src/catalogue/models"
DEVICES = {"cpu": "--cpu", "cuda": ""}
"""What ComfyUI is told, for it to use the device."""
OF_THE_GPU = ("LD_LIBRARY_PATH", "CUDA_", "NVIDIA_")
"""How the variables begin that say, on some machines, which GPU there is and where CUDA's libraries lie."""


def chosen_device() -> str:
    """Where ComfyUI computes. Raises ValueError for a device that is not known."""
    chosen = os.environ.get("COMFYUI_DEVICE") or "cpu"
    if chosen not in DEVICES:
        raise ValueError(f"COMFYUI_DEVICE must be one of {', '.join(DEVICES)}, not {chosen}")
    return chosen


def tiny_comfyui(base: Path, work: Path) -> dict[str, str] | None:
    """Write the weights into ``base``. None if the environment's ``COMFYUI`` names no checkout."""
    directory = os.environ.get("COMFYUI", "")
    if not directory:
        return None
    checkout = Path(directory)
    python = os.environ.get("COMFYUI_PYTHON") or str(checkout / ".venv/bin/python")
    (base / "custom_nodes").mkdir(parents=True)
    shutil.copy(TINY_WEIGHTS.with_name("tiny_node.py"), base / "custom_nodes")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [python, str(TINY_WEIGHTS), str(base / "models"), *map(str, sorted(MODELS.glob("*/model.json")))]
    subprocess.run(command, cwd=checkout, env=environment, check=True)
    arguments = f"{DEVICES[chosen_device()]} --base-directory {base} {os.environ.get('COMFYUI_ARGUMENTS', '')}"
    return {
        **{name: value for name, value in os.environ.items() if name.startswith(OF_THE_GPU)},
        "RENDERER": "comfyui",
        "COMFYUI_DIRECTORY": str(checkout),
        "COMFYUI_PYTHON": python,
        "COMFYUI_ARGUMENTS": arguments.strip(),
        "COMFYUI_BASE_DIRECTORY": str(base),
        "COMFYUI_WORK_DIRECTORY": str(work),
        "OMP_NUM_THREADS": "1",
    }
