"""The smallest order of each model, for a worker to render before its first job. Nobody could place one so small."""

from typing import Any

import msgspec

from catalogue.loading import Catalogue
from catalogue.model import Model


def warm_ups(catalogue: Catalogue) -> bytes:
    """As JSON, by model. A model that is made of a clip has none: a worker has no clip."""
    orders = {
        model.id: {
            "kind": model.kind,
            "extension": model.output_extension,
            "images": [model.upload_name(parameter) for parameter in model.upload_parameters],
            "workflow": smallest_workflow(model),
        }
        for model in catalogue.models
        if not model.clip_parameters
    }
    return msgspec.json.format(msgspec.json.encode(orders)) + b"\n"


def smallest_workflow(model: Model) -> dict[str, Any]:
    """The workflow of the default tier: smallest size, shortest clip, and one step of each sampler."""
    properties = model.parameters_schema["properties"]
    smallest = {
        name: properties[name]["minimum"] for name in ("width", "height", "duration_seconds") if name in properties
    }
    parameters = model.defaults | smallest | {"prompt": "a grey square", "seed": 0}
    parameters |= dict.fromkeys(model.upload_parameters, "")
    workflow = model.bind_workflow(parameters)
    for node in workflow.values():
        _take_one_step(node["inputs"])
    return workflow


def _take_one_step(inputs: dict[str, Any]) -> None:
    if "start_at_step" in inputs and "end_at_step" in inputs:
        # One of two experts, which share the steps: two steps, one each.
        first = inputs["start_at_step"] == 0
        inputs |= {"steps": 2, "start_at_step": 0 if first else 1, "end_at_step": 1 if first else 2}
    elif "steps" in inputs:
        inputs["steps"] = 1
    elif isinstance(sigmas := inputs.get("sigmas"), str):
        first_sigma, *_, last_sigma = sigmas.split(",")
        inputs["sigmas"] = f"{first_sigma.strip()}, {last_sigma.strip()}"
