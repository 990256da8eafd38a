"""A worker's settings for a real ComfyUI on the CPU, with tiny random weights for every model of the catalogue."""

import os
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TINY_WEIGHTS = REPOSITORY / "gpu-endpoint/comfyui_real/tiny_weights.py"
MODELS = REPOSITORY / "libs/catalogue/src/catalogue/models"


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
    return {
        "RENDERER": "comfyui",
        "COMFYUI_DIRECTORY": str(checkout),
        "COMFYUI_PYTHON": python,
        "COMFYUI_ARGUMENTS": f"--cpu --base-directory {base}",
        "COMFYUI_BASE_DIRECTORY": str(base),
        "COMFYUI_WORK_DIRECTORY": str(work),
        "OMP_NUM_THREADS": "1",
    }
