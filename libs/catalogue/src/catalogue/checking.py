"""Rules inside a model's data files, beyond their form. Each problem names the file and the field."""

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from catalogue import comfyui_nodes
from catalogue.gpu_cost import GpuSeconds, load_gpu_types
from catalogue.model import UPLOAD_EXTENSIONS, Model, Tier
from catalogue.pricing import Surcharges

_SAVING_NODES: Final = {"video": "SaveVideo", "image": "SaveImage"}
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")


def problems(model: Model, directory_name: str) -> Iterator[str]:
    """Each contradiction in one model's files, in words; none if the files are consistent."""
    for place, found in (
        ("model.json", _in_model(model, directory_name)),
        ("model.json: parameters_schema", _in_schema(model)),
        ("model.json: licence", _in_licence(model)),
        ("model.json: files", _in_files(model)),
        ("model.json: tiers", _in_tiers(model)),
        ("model.json: bindings", _in_bindings(model)),
        *((tier.workflow_file, _in_workflow(model, tier)) for tier in model.tiers),
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
    if not 0 <= model.limits.frame_offset <= max(1, model.limits.frame_step):
        yield "limits.frame_offset: must be less than frame_step"
    if model.vram_gb < 1:
        yield "vram_gb: must be positive"


def _in_licence(model: Model) -> Iterator[str]:
    licence = model.licence
    if not licence.url.startswith("https://"):
        yield "url: must be an https address"
    if not (licence.sells or model.retired):
        yield "sells: a model that may not be sold cannot be offered"


def _in_files(model: Model) -> Iterator[str]:
    listed = {(file.folder, file.name) for file in model.files}
    loaded: set[tuple[str, str]] = set()
    for tier in model.tiers:
        loaded |= comfyui_nodes.named_files(_sound_nodes(tier))
    yield from (f"{folder}/{name}: is loaded by a workflow, and not listed" for folder, name in sorted(loaded - listed))
    yield from (f"{folder}/{name}: is listed, and loaded by no workflow" for folder, name in sorted(listed - loaded))
    for file in model.files:
        if file.sha256 is not None and not _SHA256.match(file.sha256):
            yield f"{file.folder}/{file.name}: sha256 must be 64 lower-case hexadecimal digits"
        if not file.url.startswith("https://"):
            yield f"{file.folder}/{file.name}: url must be an https address"


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
    for name in _wanted_parameters(model, "prompt" in properties):
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


def _wanted_parameters(model: Model, has_prompt: bool) -> Iterator[str]:
    """A clip that is made of a clip alone has the rate of that one. The steps of an order choose among tiers."""
    yield from ("width", "height")
    if has_prompt:
        yield "seed"
    if model.kind == "video":
        yield from ("duration_seconds", "frames_per_second") if has_prompt else ("duration_seconds",)
    if len(model.tiers) > 1:
        yield "steps"


def _in_tiers(model: Model) -> Iterator[str]:
    if not model.tiers:
        yield "there is none"
    for number, tier in enumerate(model.tiers):
        yield from (f"{number}.gpu_seconds.{problem}" for problem in _in_seconds(tier.gpu_seconds))
        yield from (f"{number}.surcharges.{problem}" for problem in _in_surcharges(model, tier.surcharges))
    for (number, lower), higher in zip(enumerate(model.tiers), model.tiers[1:], strict=False):
        if higher.from_steps <= lower.from_steps:
            yield f"{number + 1}.from_steps: must be larger than that of the tier before it"


def _in_seconds(seconds: GpuSeconds) -> Iterator[str]:
    if seconds.gpu not in load_gpu_types():
        yield f"gpu: '{seconds.gpu}' has no price in gpu_types.json"
    for name in ("base", "per_megapixel", "per_megapixel_second"):
        yield from _fraction(name, getattr(seconds, name), at_least=0)


def _in_surcharges(model: Model, surcharges: Surcharges) -> Iterator[str]:
    tiers, steps = surcharges.resolutions, surcharges.steps
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
        for tier in model.tiers:
            if binding.input not in _inputs(tier.workflow.get(binding.node)):
                yield f"{number}: node {binding.node} of {tier.workflow_file} has no input '{binding.input}'"
    for unbound in sorted(set(properties) - {binding.parameter for binding in model.bindings}):
        yield f"'{unbound}' is bound to no node"
    for name, rule in properties.items():
        transforms = {binding.transform for binding in model.bindings if binding.parameter == name}
        if rule.get("format") == "upload-id" and len(transforms & UPLOAD_EXTENSIONS.keys()) != 1:
            yield f"'{name}' is an upload: one of {', '.join(sorted(UPLOAD_EXTENSIONS))} must name its file"


def _in_workflow(model: Model, tier: Tier) -> Iterator[str]:
    whole = True
    for node_id, node in tier.workflow.items():
        if not isinstance(node.get("class_type"), str):
            yield f"{node_id}.class_type: is missing"
            whole = False
        for name, value in _inputs(node).items():
            if not isinstance(value, list):
                continue
            if len(value) != 2 or not isinstance(value[1], int) or value[0] not in tier.workflow:
                yield f"{node_id}.inputs.{name}: comes from {value}, which does not exist"
                whole = False
    saving = _SAVING_NODES[model.kind]
    if sum(node.get("class_type") == saving for node in tier.workflow.values()) != 1:
        yield f"must have exactly one {saving}"
    elif whole:
        yield from _in_nodes(tier.workflow)


def _in_nodes(workflow: dict[str, Any]) -> Iterator[str]:
    """Held against ComfyUI's own description of its nodes."""
    classes = comfyui_nodes.load_node_descriptions().classes
    found = list(comfyui_nodes.problems(workflow, classes))
    yield from found
    if not found:
        unused = comfyui_nodes.unused_nodes(workflow, classes)
        yield from (f"{node_id}: has no part in the result" for node_id in sorted(unused))


def _sound_nodes(tier: Tier) -> dict[str, Any]:
    """The nodes that say what they are."""
    return {
        node_id: {"class_type": node["class_type"], "inputs": _inputs(node)}
        for node_id, node in tier.workflow.items()
        if isinstance(node.get("class_type"), str)
    }


def _inputs(node: dict[str, Any] | None) -> dict[str, Any]:
    inputs = (node or {}).get("inputs")
    return inputs if isinstance(inputs, dict) else {}
