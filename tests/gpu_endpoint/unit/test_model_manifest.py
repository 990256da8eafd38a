"""What the worker knows of models is the catalogue's."""

import subprocess

import pytest

from catalogue.loading import load_catalogue
from catalogue.model import Model
from catalogue.warm_ups import smallest_workflow, warm_ups
from tests.gpu_endpoint.worker import GPU_ENDPOINT, PYTHON, needs_environment

MODELS = GPU_ENDPOINT.parent / "libs/catalogue/src/catalogue/models"


@needs_environment
def test_the_manifest_is_that_of_the_catalogue() -> None:
    command = [str(PYTHON), "-m", "gpu_endpoint.provision", "manifest", str(MODELS)]
    made = subprocess.run(command, capture_output=True, check=True).stdout
    assert (GPU_ENDPOINT / "models.json").read_bytes() == made, "make models-manifest"


def test_the_warm_ups_are_those_of_the_catalogue() -> None:
    assert (GPU_ENDPOINT / "warm_ups.json").read_bytes() == warm_ups(load_catalogue()), "make models-manifest"


@pytest.mark.parametrize("model", [model for model in load_catalogue().models if not model.clip_parameters])
def test_a_warm_up_is_small_and_takes_one_step_of_each_sampler(model: Model) -> None:
    workflow = smallest_workflow(model)
    # Its files are those of an order of the defaults: what is warm is what is ordered.
    assert {node["class_type"] for node in workflow.values()} == {
        node["class_type"] for node in model.default_tier.workflow.values()
    }
    for node in workflow.values():
        inputs = node["inputs"]
        assert inputs.get("width", 0) <= 256
        if "start_at_step" in inputs:
            assert inputs["end_at_step"] - inputs["start_at_step"] == 1
        elif "steps" in inputs:
            assert inputs["steps"] == 1
        if isinstance(inputs.get("sigmas"), str):
            assert len(inputs["sigmas"].split(",")) == 2
