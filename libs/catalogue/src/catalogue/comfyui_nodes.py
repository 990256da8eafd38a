"""What ComfyUI's nodes take and give, condensed from ``/object_info``, and what a workflow makes of them.

``comfyui_nodes.json`` is written by ``python -m catalogue nodes SOURCE`` and holds the classes that our workflows use.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec

FILE_INPUTS: Final[Mapping[tuple[str, str], str]] = {
    ("CheckpointLoaderSimple", "ckpt_name"): "checkpoints",
    ("UNETLoader", "unet_name"): "diffusion_models",
    ("LoraLoaderModelOnly", "lora_name"): "loras",
    ("CLIPLoader", "clip_name"): "text_encoders",
    ("DualCLIPLoader", "clip_name1"): "text_encoders",
    ("DualCLIPLoader", "clip_name2"): "text_encoders",
    ("VAELoader", "vae_name"): "vae",
    ("LTXAVTextEncoderLoader", "text_encoder"): "text_encoders",
    ("LTXAVTextEncoderLoader", "ckpt_name"): "checkpoints",
    ("LTXVAudioVAELoader", "ckpt_name"): "checkpoints",
    ("LatentUpscaleModelLoader", "model_name"): "latent_upscale_models",
    ("FrameInterpolationModelLoader", "model_name"): "frame_interpolation",
    ("LoadImage", "image"): "input",
    ("LoadVideo", "file"): "input",
}
"""Inputs that name a file, and the folder it lies in. A server lists the files that it happens to have there."""

Workflow = Mapping[str, Mapping[str, Any]]


class NodeInput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One input. ``type`` may list several, with commas; ``FILE`` names a file of ``folder``.

    ``choices`` are the inputs that come with a value, by value: their names begin with this input's name and a dot.
    ``grows`` are names under which an input of the same type may be repeated, at least once.
    """

    type: str
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    options: tuple[str, ...] = ()
    choices: dict[str, dict[str, "NodeInput"]] = {}
    grows: tuple[str, ...] = ()
    folder: str = ""


class Node(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A class of nodes: its inputs by name, the types of its outputs in order, and whether it saves a result."""

    inputs: dict[str, NodeInput]
    outputs: tuple[str, ...] = ()
    saves: bool = False


class NodeDescriptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The classes that our workflows use, as one version of ComfyUI has them."""

    comfyui: str
    source: str
    classes: dict[str, Node]


class UnknownClass(Exception):
    """A workflow uses a class that the server does not have."""


@cache
def load_node_descriptions() -> NodeDescriptions:
    """The checked-in description."""
    data = files("catalogue").joinpath("comfyui_nodes.json").read_bytes()
    return msgspec.json.decode(data, type=NodeDescriptions)


def condense(object_info: Mapping[str, Any], classes: set[str], version: str, source: str) -> NodeDescriptions:
    """The named classes of an answer of ``/object_info``. Raises ``UnknownClass``."""
    if missing := sorted(classes - object_info.keys()):
        raise UnknownClass(", ".join(missing))
    return NodeDescriptions(
        comfyui=version, source=source, classes={name: _node(name, object_info[name]) for name in sorted(classes)}
    )


def encode(descriptions: NodeDescriptions) -> str:
    """As it is checked in: one class a line."""
    classes = msgspec.to_builtins(descriptions.classes)
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(node)}" for name, node in classes.items())
    head = f' "comfyui": {json.dumps(descriptions.comfyui)},\n "source": {json.dumps(descriptions.source)},\n'
    return f'{{\n{head} "classes": {{\n{lines}\n }}\n}}\n'


def problems(workflow: Workflow, classes: Mapping[str, Node]) -> Iterator[str]:
    """Each thing that ComfyUI would refuse in a workflow, or silently ignore. Its links must lead somewhere."""
    for node_id, node in workflow.items():
        description = classes.get(node["class_type"])
        if description is None:
            yield f"{node_id}: ComfyUI has no '{node['class_type']}', or comfyui_nodes.json is older than this workflow"
            continue
        inputs = node["inputs"]
        known: set[str] = set()
        for name, expected in _expected(description.inputs, inputs):
            known.add(name)
            if name not in inputs:
                if expected.required:
                    yield f"{node_id}.inputs.{name}: is missing"
                continue
            problem = _value_problem(inputs[name], expected, workflow, classes)
            if problem is not None:
                yield f"{node_id}.inputs.{name}: {problem}"
        for name in sorted(inputs.keys() - known):
            yield f"{node_id}.inputs.{name}: {node['class_type']} does not take it"


def unused_nodes(workflow: Workflow, classes: Mapping[str, Node]) -> set[str]:
    """The nodes that have no part in what is saved."""
    todo = [node_id for node_id, node in workflow.items() if classes[node["class_type"]].saves]
    reached: set[str] = set()
    while todo:
        node_id = todo.pop()
        if node_id not in reached:
            reached.add(node_id)
            todo += [value[0] for value in workflow[node_id]["inputs"].values() if isinstance(value, list)]
    return workflow.keys() - reached


def named_files(workflow: Workflow) -> set[tuple[str, str]]:
    """Folder and name of every model file that a workflow loads."""
    return {
        (FILE_INPUTS[key], value)
        for node in workflow.values()
        for name, value in node["inputs"].items()
        if (key := (node["class_type"], name)) in FILE_INPUTS and FILE_INPUTS[key] != "input"
    }


def _expected(
    inputs: Mapping[str, NodeInput], given: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, NodeInput]]:
    """Every input that a node may have as it stands, under its full name."""
    for short, expected in inputs.items():
        name = f"{prefix}{short}"
        if expected.grows:
            for number, grown in enumerate(expected.grows):
                yield f"{name}.{grown}", msgspec.structs.replace(expected, required=number == 0)
            continue
        yield name, expected
        chosen = given.get(name)
        if expected.choices and isinstance(chosen, str):
            yield from _expected(expected.choices.get(chosen, {}), given, f"{name}.")


def _value_problem(value: Any, expected: NodeInput, workflow: Workflow, classes: Mapping[str, Node]) -> str | None:
    types = expected.type.split(",")
    if isinstance(value, list):
        source, output = value
        description = classes.get(workflow[source]["class_type"])
        given = description.outputs[output] if description and output < len(description.outputs) else "nothing"
        return None if given in types else f"takes {expected.type}, and is linked to {given}"
    python_types: dict[str, type] = {"INT": int, "FLOAT": float, "BOOLEAN": bool}
    fitting = {python_types.get(name, str) for name in types}
    if type(value) not in fitting or not any(name in ("STRING", "COMBO", "FILE", *python_types) for name in types):
        return f"takes {expected.type}, not {value!r}"
    if (expected.minimum is not None and value < expected.minimum) or (
        expected.maximum is not None and value > expected.maximum
    ):
        return f"takes {expected.minimum} to {expected.maximum}, not {value!r}"
    options = (*expected.options, *expected.choices)
    if options and value not in options:
        return f"takes one of {', '.join(options)}, not {value!r}"
    return None


def _node(name: str, described: Mapping[str, Any]) -> Node:
    return Node(
        inputs=_inputs(name, described["input"]),
        outputs=tuple(output if isinstance(output, str) else "COMBO" for output in described["output"]),
        saves=described["output_node"],
    )


def _inputs(class_name: str, described: Mapping[str, Any]) -> dict[str, NodeInput]:
    return {
        name: _input(class_name, name, *rule, required=group == "required")
        for group in ("required", "optional")
        for name, rule in described.get(group, {}).items()
    }


def _input(
    class_name: str, name: str, kind: str | list[Any], settings: Mapping[str, Any] | None = None, *, required: bool
) -> NodeInput:
    settings = settings or {}
    folder = FILE_INPUTS.get((class_name, name))
    if folder is not None:
        return NodeInput(type="FILE", required=required, folder=folder)
    if isinstance(kind, list):
        return NodeInput(type="COMBO", required=required, options=tuple(str(option) for option in kind))
    match kind:
        case "COMBO":
            options = tuple(str(option) for option in settings.get("options", ()))
            return NodeInput(type="COMBO", required=required, options=options)
        case "COMFY_DYNAMICCOMBO_V3":
            choices = {option["key"]: _inputs(class_name, option["inputs"]) for option in settings["options"]}
            return NodeInput(type="COMBO", required=required, choices=choices)
        case "COMFY_AUTOGROW_V3":
            [(repeated, _)] = settings["template"]["input"]["required"].values()
            return NodeInput(type=repeated, required=required, grows=tuple(settings["template"]["names"]))
        case "COMFY_MATCHTYPE_V3":
            return NodeInput(type=settings["template"]["allowed_types"], required=required)
    return NodeInput(type=kind, required=required, minimum=settings.get("min"), maximum=settings.get("max"))
