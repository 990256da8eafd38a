"""Which ComfyUI is checked: two that call themselves by one version may take different inputs."""

import subprocess
from pathlib import Path

import msgspec

from gpu_endpoint.comfyui_pin import Pin

PIN = Path(__file__).parents[1] / "comfyui.lock.json"


def test_the_checkout_is_the_commit_that_the_image_holds(checkout: Path) -> None:
    pin = msgspec.json.decode(PIN.read_bytes(), type=Pin)
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    assert found == pin.commit, f"the checks ran on another ComfyUI than {pin.version}: they say nothing of the image"
