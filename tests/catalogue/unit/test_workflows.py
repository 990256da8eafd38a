"""ComfyUI accepts each workflow: every input is there, every link has the right type, and no node is unused."""

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogue import Catalogue, Model, load_catalogue
from tests.catalogue.unit.comfyui_nodes import NODES

CATALOGUE: Catalogue = load_catalogue()

each_model = pytest.mark.parametrize("model", CATALOGUE.models, ids=lambda model: model.id)


def bound(model: Model, **parameters: Any) -> dict[str, Any]:
    uploads = {name: str(uuid4()) for name in model.upload_parameters}
    return model.bind_workflow(model.complete({"prompt": "a lighthouse"} | uploads | parameters))


@each_model
def test_every_node_gets_what_it_takes_and_nothing_else(model: Model) -> None:
    workflow = bound(model)
    for node_id, node in workflow.items():
        known = NODES[node["class_type"]]
        takes = {name.lstrip("*"): kind for name, kind in known.takes.items()}
        required = {name for name in known.takes if not name.startswith("*")}
        assert required <= node["inputs"].keys() <= takes.keys(), f"node {node_id}"
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                source, output = value
                assert NODES[workflow[source]["class_type"]].gives[output] == takes[name], f"{node_id}.{name}"
            else:
                assert type(value) is takes[name], f"{node_id}.{name}"


@each_model
def test_every_node_has_a_part_in_the_result(model: Model) -> None:
    workflow = bound(model)
    (end,) = (node_id for node_id, node in workflow.items() if node["class_type"] in ("SaveVideo", "SaveImage"))
    reached, todo = set(), [end]
    while todo:
        node_id = todo.pop()
        if node_id not in reached:
            reached.add(node_id)
            todo += [value[0] for value in workflow[node_id]["inputs"].values() if isinstance(value, list)]
    assert reached == workflow.keys()


@pytest.mark.parametrize(("model_id", "step"), [("wan-2.2-t2v", 4), ("wan-2.2-i2v", 4), ("ltx-video", 8)])
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


@pytest.mark.parametrize("model_id", ["wan-2.2-t2v", "wan-2.2-i2v"])
@pytest.mark.parametrize("steps", [4, 7, 20, 40])
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


def test_a_picture_is_named_as_the_worker_saves_it() -> None:
    workflow = bound(CATALOGUE.model("wan-2.2-i2v"))
    (name,) = (node["inputs"]["image"] for node in workflow.values() if node["class_type"] == "LoadImage")
    assert name == "image.png"
