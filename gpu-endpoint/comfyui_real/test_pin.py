"""Which ComfyUI is checked: two of one version may take different inputs, and need other packages."""

import re
import subprocess
from pathlib import Path

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gpu_endpoint.comfyui_pin import Pin

WORKER = Path(__file__).parents[1]
PIN = WORKER / "comfyui.lock.json"
PACKAGES = WORKER / "comfyui.requirements.txt"


def test_the_checkout_is_the_commit_that_the_image_holds(checkout: Path) -> None:
    pin = msgspec.json.decode(PIN.read_bytes(), type=Pin)
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    assert found == pin.commit, f"the checks ran on another ComfyUI than {pin.version}: they say nothing of the image"


def test_the_image_holds_the_packages_that_the_checkout_asks_for(checkout: Path) -> None:
    pinned = dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", PACKAGES.read_text(), re.MULTILINE))
    lines = [line.split("#")[0].strip() for line in (checkout / "requirements.txt").read_text().splitlines()]
    asked = [Requirement(line) for line in lines if line]
    held = {str(one): pinned.get(canonicalize_name(one.name)) for one in asked}
    assert held
    assert {
        str(one): held[str(one)]
        for one in asked
        if held[str(one)] is None or not one.specifier.contains(held[str(one)], prereleases=True)
    } == {}
