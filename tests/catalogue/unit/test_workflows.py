"""ComfyUI accepts each workflow: every input is there and in range, every link fits, and no node is unused."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogue import Catalogue, Model, comfyui_nodes, load_catalogue
from catalogue.comfyui_nodes import UnknownClass, condense, problems, unused_nodes
from catalogue.model import Tier
from catalogue.node_source import VersionUnknown, read_object_info, used_classes

CATALOGUE: Catalogue = load_catalogue()
NODES = comfyui_nodes.load_node_descriptions().classes

each_tier = pytest.mark.parametrize(
    ("model", "tier"),
    [pytest.param(model, tier, id=f"{model.id}-{tier.id}") for model in CATALOGUE.models for tier in model.tiers],
)


def bound(model: Model, **parameters: Any) -> dict[str, Any]:
    uploads = {name: str(uuid4()) for name in model.upload_parameters}
    words = {"prompt": "a lighthouse"} if "prompt" in model.parameters_schema["properties"] else {}
    return model.bind_workflow(model.complete(words | uploads | parameters))


def of_tier(model: Model, tier: Tier) -> dict[str, Any]:
    """The workflow of an order that belongs to this tier."""
    steps = model.parameters_schema["properties"].get("steps", {}).get("enum", [])
    chosen = next(({"steps": number} for number in steps if model.tier({"steps": number}) is tier), {})
    return bound(model, **chosen)


@each_tier
def test_every_node_gets_what_it_takes_and_nothing_else(model: Model, tier: Tier) -> None:
    assert list(problems(of_tier(model, tier), NODES)) == []


@each_tier
def test_every_node_has_a_part_in_the_result(model: Model, tier: Tier) -> None:
    assert unused_nodes(of_tier(model, tier), NODES) == set()


@each_tier
def test_a_clip_is_saved_once_as_h264(model: Model, tier: Tier) -> None:
    saves = [node["inputs"] for node in of_tier(model, tier).values() if node["class_type"] == "SaveVideo"]
    assert [save["codec"] for save in saves] == ["h264"] * (model.kind == "video")


BROKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "an input that is missing": ("13", {"fps": None}, "13.inputs.fps: is missing"),
    "an input that nobody takes": ("13", {"colour": "red"}, "13.inputs.colour: CreateVideo does not take it"),
    "a word for a number": ("9", {"width": "wide"}, "9.inputs.width: takes INT, not 'wide'"),
    "a whole number for a fraction": ("13", {"fps": 16}, "13.inputs.fps: takes FLOAT, not 16"),
    "a number out of range": ("9", {"width": 8}, "9.inputs.width: takes 16"),
    "an unknown sampler": ("10", {"sampler_name": "luck"}, "10.inputs.sampler_name: takes one of euler"),
    "a link of another type": ("12", {"vae": ["1", 0]}, "12.inputs.vae: takes VAE, and is linked to CLIP"),
    "a link to no output": ("12", {"vae": ["2", 7]}, "12.inputs.vae: takes VAE, and is linked to nothing"),
    "a value for a link": ("12", {"vae": "wan"}, "12.inputs.vae: takes VAE, not 'wan'"),
    "a codec that is not offered": ("15", {"codec": "vp9"}, "15.inputs.codec: takes one of auto, h264"),
    "a nested input out of range": (
        "15",
        {"codec.encoding": "re-encode", "codec.encoding.crf": 60.0},
        "15.inputs.codec.encoding.crf: takes 0.0 to 51.0, not 60.0",
    ),
    "a nested input of another release": ("15", {"format.codec": "h264"}, "15.inputs.format.codec: SaveVideo does not"),
    "a choice that is not offered": ("15", {"format": "auto2"}, "15.inputs.format: takes one of auto"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_comfyui_would_refuse_is_named(case: str) -> None:
    node, change, expected = BROKEN[case]
    workflow = bound(CATALOGUE.model("wan-2.2-t2v"), steps=20)
    workflow[node]["inputs"] |= change
    workflow[node]["inputs"] = {name: value for name, value in workflow[node]["inputs"].items() if value is not None}
    found = list(problems(workflow, NODES))
    assert any(problem.startswith(expected) for problem in found), found


def test_a_class_that_comfyui_has_not_is_named() -> None:
    workflow = bound(CATALOGUE.model("wan-2.2-t2v"))
    workflow["12"]["class_type"] = "VAEDecodeFast"
    assert "12: ComfyUI has no 'VAEDecodeFast', or comfyui_nodes.json is older than this workflow" in list(
        problems(workflow, NODES)
    )


def test_exactly_the_classes_that_are_used_are_described() -> None:
    assert used_classes() == set(NODES)


OBJECT_INFO: dict[str, Any] = {
    "Saver": {
        "input": {
            "required": {
                "steps": ["INT", {"min": 1, "max": 9, "tooltip": "not kept"}],
                "mode": [["slow", "quick"], {}],
                "format": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {"options": [{"key": "mp4", "inputs": {"required": {"crf": ["FLOAT", {"max": 51.0}]}}}]},
                ],
                "values": [
                    "COMFY_AUTOGROW_V3",
                    {"template": {"input": {"required": {"value": ["FLOAT,INT", {}]}}, "names": ["a", "b"]}},
                ],
            },
            "optional": {"audio": ["AUDIO"]},
        },
        "output": ["VIDEO"],
        "output_node": True,
    },
    "Other": {"input": {}, "output": [], "output_node": False},
}


def test_object_info_is_condensed_to_what_decides(tmp_path: Path) -> None:
    file = tmp_path / "object_info.json"
    file.write_text(json.dumps(OBJECT_INFO))
    written = json.loads(read_object_info(str(file), "0.33.0", {"Saver"}))
    assert written["comfyui"] == "0.33.0"
    assert written["classes"] == {
        "Saver": {
            "inputs": {
                "steps": {"type": "INT", "required": True, "minimum": 1, "maximum": 9},
                "mode": {"type": "COMBO", "required": True, "options": ["slow", "quick"]},
                "format": {
                    "type": "COMBO",
                    "required": True,
                    "choices": {"mp4": {"crf": {"type": "FLOAT", "required": True, "maximum": 51.0}}},
                },
                "values": {"type": "FLOAT,INT", "required": True, "grows": ["a", "b"]},
                "audio": {"type": "AUDIO"},
            },
            "outputs": ["VIDEO"],
            "saves": True,
        }
    }
    with pytest.raises(VersionUnknown):
        read_object_info(str(file), None, {"Saver"})


def test_nested_and_repeated_inputs_are_known_by_their_full_names() -> None:
    classes = condense(OBJECT_INFO, {"Saver"}, "0.33.0", "a test").classes
    inputs = {"steps": 3, "mode": "slow", "format": "mp4", "format.crf": 20.0, "values.a": 1, "values.b": 2.0}
    assert list(problems({"1": {"class_type": "Saver", "inputs": inputs}}, classes)) == []
    del inputs["format.crf"], inputs["values.a"]
    assert list(problems({"1": {"class_type": "Saver", "inputs": inputs}}, classes)) == [
        "1.inputs.format.crf: is missing",
        "1.inputs.values.a: is missing",
    ]


def test_a_class_that_the_server_has_not_stops_the_writing() -> None:
    with pytest.raises(UnknownClass, match="Loader, Missing"):
        condense(OBJECT_INFO, {"Saver", "Missing", "Loader"}, "0.33.0", "a test")


@pytest.mark.parametrize(
    ("model_id", "step"), [("wan-2.2-t2v", 4), ("wan-2.2-i2v", 4), ("ltx-video", 8), ("ltx-2.5-t2v", 8)]
)
@given(seconds=st.integers(1, 5), wanted=st.sampled_from([16, 24, 25, 30]))
def test_a_clip_has_a_length_that_the_model_can_make_and_is_never_too_short(
    model_id: str, step: int, seconds: int, wanted: int
) -> None:
    model = CATALOGUE.model(model_id)
    rates = model.parameters_schema["properties"]["frames_per_second"]["enum"]
    rate = wanted if wanted in rates else rates[0]
    workflow = bound(model, duration_seconds=seconds, frames_per_second=rate)
    (frames,) = (node["inputs"]["length"] for node in workflow.values() if "length" in node["inputs"])
    assert frames % step == 1
    assert seconds * rate < frames <= seconds * rate + step
    (speed,) = (node["inputs"]["fps"] for node in workflow.values() if node["class_type"] == "CreateVideo")
    assert speed == rate
    for node in workflow.values():
        assert node["inputs"].get("frames_number", frames) == frames, "the sound is as long as the picture"


@pytest.mark.parametrize("model_id", ["wan-2.2-t2v", "wan-2.2-i2v"])
@pytest.mark.parametrize("steps", [4, 20, 25, 30])
def test_the_second_expert_goes_on_where_the_first_one_stops(model_id: str, steps: int) -> None:
    workflow = bound(CATALOGUE.model(model_id), steps=steps, seed=42)
    samplers = [node["inputs"] for node in workflow.values() if node["class_type"] == "KSamplerAdvanced"]
    (first,) = (inputs for inputs in samplers if inputs["add_noise"] == "enable")
    (second,) = (inputs for inputs in samplers if inputs["add_noise"] == "disable")
    assert first["start_at_step"] == 0
    assert 0 < first["end_at_step"] == second["start_at_step"] < steps
    assert first["steps"] == second["steps"] == steps
    assert first["return_with_leftover_noise"] == "enable"
    assert second["return_with_leftover_noise"] == "disable"
    assert first["noise_seed"] == second["noise_seed"] == 42


@pytest.mark.parametrize(
    ("model_id", "input_name", "file"),
    [
        ("wan-2.2-i2v", "image", "image.png"),
        ("ltx-2.5-i2v", "image", "image.png"),
        ("film-interpolation", "file", "clip.mp4"),
    ],
)
def test_an_upload_is_named_as_the_worker_saves_it(model_id: str, input_name: str, file: str) -> None:
    model = CATALOGUE.model(model_id)
    loaders = [node for node in bound(model).values() if node["class_type"] in ("LoadImage", "LoadVideo")]
    assert [node["inputs"][input_name] for node in loaders] == [file]
    assert [model.upload_name(parameter) for parameter in model.upload_parameters] == [file]
