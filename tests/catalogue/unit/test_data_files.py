"""A data file that contradicts itself stops the service at its start, and the message says where to look."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from catalogue import InvalidCatalogue, load_catalogue

SECONDS: tuple[Any, ...] = ("tiers", 0, "gpu_seconds")
Break = Callable[[dict[str, Any], dict[str, Any]], object]


def setter(*path: Any, value: Any) -> Break:
    """Write ``value`` into ``model.json`` under ``path``."""

    def change(model: dict[str, Any], _: dict[str, Any]) -> None:
        place: Any = model
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value

    return change


def prompt(**changes: Any) -> Break:
    return lambda model, _: model["parameters_schema"]["properties"]["prompt"].update(changes)


def tiers(*factors: tuple[int, str]) -> Break:
    rows = [{"label": f"up to {pixels}", "up_to_pixels": pixels, "factor": factor} for pixels, factor in factors]
    return setter("tiers", 0, "surcharges", "resolutions", value=rows)


BROKEN: dict[str, tuple[Break, str]] = {
    "another id": (setter("id", value="other"), "m/model.json: id:"),
    "an unknown field": (setter("colour", value="red"), r"m/model.json: .*`colour`"),
    "a word for a number": (setter("limits", "max_pixels", value="many"), r"m/model.json: .*\$.limits.max_pixels"),
    "no room at all": (setter("limits", "max_pixels", value=0), "m/model.json: limits.max_pixels"),
    "a picture's type": (setter("output_content_type", value="image/png"), "m/model.json: output_content_type"),
    "a deadline before the job ends": (setter("order_deadline_seconds", value=5), "order_deadline_seconds"),
    "an open schema": (setter("parameters_schema", "additionalProperties", value=True), "additionalProperties"),
    "no schema": (setter("parameters_schema", "type", value="thing"), "m/model.json: parameters_schema: type"),
    "no steps": (lambda m, _: m["parameters_schema"]["properties"].pop("steps"), "properties.steps: is missing"),
    "no seed": (lambda m, _: m["parameters_schema"]["properties"].pop("seed"), "properties.seed: is missing"),
    "no frame rate": (
        lambda m, _: m["parameters_schema"]["properties"].pop("frames_per_second"),
        "properties.frames_per_second: is missing",
    ),
    "an impossible frame rule": (setter("limits", "frame_offset", value=5), "limits.frame_offset"),
    "no video memory": (setter("vram_gb", value=0), "vram_gb: must be positive"),
    "an offer that may not be sold": (setter("licence", "sells", value=False), "licence: sells: a model that may not"),
    "a licence that is nowhere": (setter("licence", "url", value="see README"), "licence: url"),
    "a file that is not listed": (lambda m, _: m["files"].pop(0), "files: diffusion_models/wan2.2.*: is loaded by"),
    "a file that nothing loads": (setter("files", 0, "folder", value="unet"), "files: unet/wan2.2.*: is listed, and"),
    "an invented hash": (setter("files", 0, "sha256", value="sha256"), "sha256 must be 64"),
    "no tier": (setter("tiers", value=[]), "m/model.json: tiers: there is none"),
    "tiers in the wrong order": (setter("tiers", 1, "from_steps", value=1), "tiers: 1.from_steps: must be larger"),
    "a GPU without a price": (setter("tiers", 0, "gpu_seconds", "gpu", value="abacus"), "gpu: 'abacus' has no price"),
    "a node that ComfyUI has not": (
        lambda _, w: w["12"].update(class_type="VAEDecodeFast"),
        "workflow.json: 12: ComfyUI has no 'VAEDecodeFast'",
    ),
    "a value out of range": (lambda _, w: w["10"]["inputs"].update(cfg=200.0), "workflow.json: 10.inputs.cfg: takes"),
    "a node without a part": (
        lambda _, w: w.update({"99": {"class_type": "VAELoader", "inputs": {"vae_name": "wan_2.1_vae.safetensors"}}}),
        "workflow.json: 99: has no part in the result",
    ),
    "a bad example": (prompt(examples=[""]), "properties.prompt: its own default or example"),
    "no title": (lambda m, _: m["parameters_schema"]["properties"]["prompt"].pop("title"), "prompt.title: is missing"),
    "endless text": (lambda m, _: m["parameters_schema"]["properties"]["prompt"].pop("maxLength"), "prompt.maxLength"),
    "an unbounded number": (
        lambda m, _: m["parameters_schema"]["properties"]["width"].pop("maximum"),
        "properties.width: a number without",
    ),
    "neither required nor given": (setter("parameters_schema", "required", value=[]), "prompt: neither required nor"),
    "seconds in words": (setter(*SECONDS, "base", value="five"), "tiers: 0.gpu_seconds.base: 'five' is no fraction"),
    "a division by nothing": (setter(*SECONDS, "base", value="1/0"), "tiers: 0.gpu_seconds.base"),
    "negative seconds": (
        setter(*SECONDS, "per_megapixel", value="-1"),
        "tiers: 0.gpu_seconds.per_megapixel: -1 is less",
    ),
    "a discount for size": (
        tiers((10, "1"), (921600, "1/2")),
        "tiers: 0.surcharges.resolutions.1.factor: 1/2 is less than 1",
    ),
    "tiers out of order": (tiers((921600, "1"), (10, "2")), "must hold more pixels"),
    "a larger tier that is cheaper": (tiers((10, "2"), (921600, "1")), "may not be cheaper"),
    "tiers that end too early": (tiers((10, "1")), "the last tier must hold limits.max_pixels"),
    "a binding of nothing": (setter("bindings", 0, "parameter", value="colour"), "bindings: 0: 'colour' is no param"),
    "a binding to no node": (setter("bindings", 0, "node", value="99"), "bindings: 0: node 99 of workflow.json"),
    "a binding to no input": (setter("bindings", 0, "input", value="words"), "has no input 'words'"),
    "an unbound parameter": (lambda m, _: m["bindings"].pop(0), "bindings: 'prompt' is bound to no node"),
    "a broken link": (lambda _, w: w["12"]["inputs"].update(vae=["77", 0]), "workflow.json: 12.inputs.vae: comes from"),
    "no class": (lambda _, w: w["12"].pop("class_type"), "workflow.json: 12.class_type: is missing"),
    "nothing saved": (lambda _, w: w.pop("15"), "workflow.json: must have exactly one SaveVideo"),
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models with one sound model, ``m``."""
    source = Path(str(files("catalogue").joinpath("models", "wan-2.2-t2v")))
    shutil.copytree(source, tmp_path / "m")
    rewrite(tmp_path / "m", setter("id", value="m"))
    return tmp_path


def rewrite(directory: Path, change: Break) -> None:
    contents = [json.loads((directory / name).read_text()) for name in ("model.json", "workflow.json")]
    change(*contents)
    for name, content in zip(("model.json", "workflow.json"), contents, strict=True):
        (directory / name).write_text(json.dumps(content))


def test_a_sound_folder_is_read(models: Path) -> None:
    assert [model.id for model in load_catalogue(models).models] == ["m"]


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_with_its_name_and_the_field(models: Path, case: str) -> None:
    change, message = BROKEN[case]
    rewrite(models / "m", change)
    with pytest.raises(InvalidCatalogue, match=message):
        load_catalogue(models)


@pytest.mark.parametrize("name", ["model.json", "workflow.json"])
def test_a_file_that_is_missing_or_no_json_is_named(models: Path, name: str) -> None:
    path = models / "m" / name
    path.write_text("{")
    with pytest.raises(InvalidCatalogue, match=f"m/{name}"):
        load_catalogue(models)
    path.unlink()
    with pytest.raises(InvalidCatalogue, match=f"m/{name}"):
        load_catalogue(models)


def test_all_problems_of_a_model_are_named_at_once(models: Path) -> None:
    rewrite(models / "m", setter(*SECONDS, "base", value="x"))
    rewrite(models / "m", setter("limits", "frame_step", value=0))
    with pytest.raises(InvalidCatalogue) as refusal:
        load_catalogue(models)
    assert len(str(refusal.value).splitlines()) == 2


def test_the_check_command_prints_every_model_with_its_price() -> None:
    checked = subprocess.run(
        (sys.executable, "-m", "catalogue", "check"), capture_output=True, text=True, check=True, timeout=60
    )
    assert [line.split()[0] for line in checked.stdout.splitlines()] == [model.id for model in load_catalogue().models]
    assert "8 credits by default" in checked.stdout
    assert "retired" in checked.stdout


def test_the_margin_command_says_price_cost_and_margin_plainly_in_a_pipe() -> None:
    printed = subprocess.run(
        (sys.executable, "-m", "catalogue", "margin"), capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert printed.isascii()
    first, *rows = printed.splitlines()
    assert first.split() == [
        "model",
        "tier",
        "size",
        *["GPU", "s", "cost", "$", "credits", "revenue", "$", "margin", "GPU", "seconds"],
    ]
    wan = [row for row in rows if row.startswith("wan-2.2-t2v") and "832x480, 5 s, 4 steps" in row]
    assert [row.split()[-1] for row in wan] == ["published"]
    assert wan[0].split()[7:12] == ["69.7", "0.0270", "8", "0.0696", "61%"]
