"""Rules inside a model's data files, beyond their form. Each problem names the file and the field."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from catalogue.model import Model

_ALWAYS: Final = ("width", "height", "steps", "seed", "prompt")
_FOR_VIDEO: Final = ("negative_prompt", "duration_seconds", "frames_per_second")
_SAVING_NODES: Final = {"video": "SaveVideo", "image": "SaveImage"}


def problems(model: Model, directory_name: str) -> Iterator[str]:
    """Each contradiction in one model's files, in words; none if the files are consistent."""
    for place, found in (
        ("model.json", _in_model(model, directory_name)),
        ("model.json: parameters_schema", _in_schema(model)),
        ("model.json: price", _in_rates(model)),
        ("model.json: surcharges", _in_surcharges(model)),
        ("model.json: bindings", _in_bindings(model)),
        ("workflow.json", _in_workflow(model)),
    ):
        yield from (f"{place}: {problem}" for problem in found)


def _in_model(model: Model, directory_name: str) -> Iterator[str]:
    if model.id != directory_name:
        yield f"id: '{model.id}' is not the name of its directory"
    if not model.output_content_type.startswith(f"{model.kind}/"):
        yield f"output_content_type: '{model.output_content_type}' is no {model.kind}"
    times = (model.execution_timeout_seconds, model.provider_ttl_seconds, model.order_deadline_seconds)
    if not 0 < times[0] <= times[1] <= times[2]:
        yield "execution_timeout_seconds, provider_ttl_seconds, order_deadline_seconds: each must cover the one before"
    for name in ("max_pixels", "frame_step"):
        if getattr(model.limits, name) < 1:
            yield f"limits.{name}: must be positive"


def _in_schema(model: Model) -> Iterator[str]:
    schema = model.parameters_schema
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        yield f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"
        return
    properties = schema.get("properties", {})
    if schema.get("additionalProperties") is not False:
        yield "additionalProperties: must be false"
    for name in (*_ALWAYS, *(_FOR_VIDEO if model.kind == "video" else ())):
        if name not in properties:
            yield f"properties.{name}: is missing"
    for name, rule in properties.items():
        for word in ("title", "description", "type"):
            if word not in rule:
                yield f"properties.{name}.{word}: is missing, and a form is made from it"
        if rule.get("type") == "integer" and "enum" not in rule and not {"minimum", "maximum"} <= rule.keys():
            yield f"properties.{name}: a number without minimum and maximum"
        if rule.get("type") == "string" and "maxLength" not in rule:
            yield f"properties.{name}.maxLength: is missing"
        for value in (*([rule["default"]] if "default" in rule else []), *rule.get("examples", ())):
            if not Draft202012Validator(rule).is_valid(value):
                yield f"properties.{name}: its own default or example {value!r} does not fit"
        if name != "seed" and "default" not in rule and name not in schema.get("required", ()):
            yield f"properties.{name}: neither required nor with a default"


def _in_rates(model: Model) -> Iterator[str]:
    for field in msgspec.structs.fields(model.price):
        yield from _fraction(field.name, getattr(model.price, field.name), at_least=0)


def _in_surcharges(model: Model) -> Iterator[str]:
    tiers, steps = model.surcharges.resolutions, model.surcharges.steps
    for number, tier in enumerate(tiers):
        yield from _fraction(f"resolutions.{number}.factor", tier.factor, at_least=1)
    for smaller, larger in pairwise(tiers):
        if larger.up_to_pixels <= smaller.up_to_pixels:
            yield f"resolutions: '{larger.label}' must hold more pixels than '{smaller.label}' before it"
        if _is_less(larger.factor, smaller.factor):
            yield f"resolutions: '{larger.label}' is larger than '{smaller.label}', and may not be cheaper"
    if tiers and tiers[-1].up_to_pixels < model.limits.max_pixels:
        yield "resolutions: the last tier must hold limits.max_pixels"
    if steps is not None:
        yield from _fraction("steps.share_per_extra_step", steps.share_per_extra_step, at_least=0)


def _fraction(name: str, written: str, at_least: int) -> Iterator[str]:
    try:
        value = Fraction(written)
    except (ValueError, ZeroDivisionError):
        yield f"{name}: '{written}' is no fraction"
        return
    if value < at_least:
        yield f"{name}: {written} is less than {at_least}"


def _is_less(written: str, other: str) -> bool:
    """False where either is no fraction, which is another problem."""
    try:
        return Fraction(written) < Fraction(other)
    except (ValueError, ZeroDivisionError):
        return False


def _in_bindings(model: Model) -> Iterator[str]:
    properties = model.parameters_schema.get("properties", {})
    for number, binding in enumerate(model.bindings):
        if binding.parameter not in properties:
            yield f"{number}: '{binding.parameter}' is no parameter"
        if binding.input not in _inputs(model.workflow.get(binding.node)):
            yield f"{number}: node {binding.node} of workflow.json has no input '{binding.input}'"
    for unbound in sorted(set(properties) - {binding.parameter for binding in model.bindings}):
        yield f"'{unbound}' is bound to no node"


def _in_workflow(model: Model) -> Iterator[str]:
    for node_id, node in model.workflow.items():
        if not isinstance(node.get("class_type"), str):
            yield f"{node_id}.class_type: is missing"
        for name, value in _inputs(node).items():
            if not isinstance(value, list):
                continue
            if len(value) != 2 or not isinstance(value[1], int) or value[0] not in model.workflow:
                yield f"{node_id}.inputs.{name}: comes from {value}, which does not exist"
    saving = _SAVING_NODES[model.kind]
    if sum(node.get("class_type") == saving for node in model.workflow.values()) != 1:
        yield f"must have exactly one {saving}"


def _inputs(node: dict[str, Any] | None) -> dict[str, Any]:
    inputs = (node or {}).get("inputs")
    return inputs if isinstance(inputs, dict) else {}
