"""The image files, held without an engine: linted, every copied path there, nothing copied that a build cannot see."""

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

import pytest

from contracts.message import SERVICES
from tests.deploy.manifests import ROOT, run

SERVICE_IMAGE: Final = ROOT / "deploy/images/Dockerfile"
COMFYUI_IMAGE: Final = ROOT / "gpu-endpoint/Dockerfile.comfyui"
IMAGE_FILES: Final = {
    SERVICE_IMAGE: ROOT,
    ROOT / "deploy/images/Dockerfile.local": ROOT,
    ROOT / "gpu-endpoint/Dockerfile": ROOT / "gpu-endpoint",
    COMFYUI_IMAGE: ROOT / "gpu-endpoint",
}
"""Each file and the directory that it is built from."""
IGNORED_RULES: Final = {
    "DL3006": "the tag is in the build argument that names the base image",
}


@pytest.mark.parametrize("file", IMAGE_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_hadolint_finds_nothing(file: Path) -> None:
    ignored = [argument for rule in IGNORED_RULES for argument in ("--ignore", rule)]
    run("hadolint", *ignored, file)


@pytest.mark.parametrize("file", IMAGE_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_path_that_is_copied_exists(file: Path) -> None:
    context = IMAGE_FILES[file]
    for path in _copied(file):
        for service in SERVICES if "${SERVICE}" in path else [""]:
            assert (context / path.replace("${SERVICE}", service)).exists(), path


def test_every_library_of_the_workspace_is_copied() -> None:
    libraries = {f"libs/{path.parent.name}/pyproject.toml" for path in ROOT.glob("libs/*/pyproject.toml")}
    assert libraries <= set(_copied(SERVICE_IMAGE))


def test_what_is_copied_is_not_ignored_by_the_build() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    kept = {rule[1:] for rule in rules if rule.startswith("!")}
    for path in _copied(SERVICE_IMAGE):
        assert any(path == one or path.startswith(f"{one}/") for one in kept), f"{path} never reaches the build"


@pytest.mark.parametrize("secret", [".env", "services/gateway/.env", ".venv/bin/python", "services/x/.venv/pyvenv.cfg"])
def test_secrets_and_environments_of_this_machine_are_ignored(secret: str) -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    ignored = [rule for rule in rules if not rule.startswith("!") and rule != "*"]
    parts = [secret, *(str(parent) for parent in Path(secret).parents if str(parent) != ".")]
    assert any(fnmatch(f"/{part}", f"*/{rule.removeprefix('**/')}") for part in parts for rule in ignored)


@pytest.mark.parametrize("file", [SERVICE_IMAGE, COMFYUI_IMAGE], ids=lambda file: str(file.relative_to(ROOT)))
def test_the_image_pins_the_same_uv_as_the_makefile(file: Path) -> None:
    (in_makefile,) = re.findall(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (in_image,) = re.findall(r"^ARG UV_VERSION=(\S+)$", file.read_text(), re.MULTILINE)
    assert in_image == in_makefile


def test_the_worker_s_build_sees_what_it_copies() -> None:
    kept = (ROOT / "gpu-endpoint/.dockerignore").read_text().splitlines()
    assert {f"!{path}" for path in _copied(COMFYUI_IMAGE)} <= set(kept)


def test_every_package_of_comfyui_is_pinned_by_hash() -> None:
    text = (ROOT / "gpu-endpoint/comfyui.requirements.txt").read_text()
    packages = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert all(re.match(r"[a-z0-9._-]+==\S+", line) and line.endswith("\\") for line in packages)
    assert {"torch", "torchaudio", "torchvision"} <= {line.split("==")[0] for line in packages}


def test_the_bake_file_builds_stages_that_exist() -> None:
    bake = (ROOT / "gpu-endpoint/docker-bake.hcl").read_text()
    stages = re.findall(r"^FROM \S+ AS (\S+)$", COMFYUI_IMAGE.read_text(), re.MULTILINE)
    named = re.findall(r'^  target += "(\S+)"$', bake, re.MULTILINE)
    assert named == ["slim", "baked"]
    assert set(named) <= set(stages)
    assert re.findall(r'^target "(\S+)"', bake, re.MULTILINE) == ["slim", "baked", "preview"]


def _copied(file: Path) -> list[str]:
    """Paths of the build context that the file copies, from ``COPY`` lines without ``--from``."""
    lines = [line.split() for line in file.read_text().splitlines() if line.startswith("COPY ")]
    return [path.rstrip("/") for line in lines if not line[1].startswith("--from") for path in line[1:-1]]
