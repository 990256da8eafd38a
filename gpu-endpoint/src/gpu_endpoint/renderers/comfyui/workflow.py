"""A bound workflow made ready for one attempt: its own names for files that go in and come out. Pure."""

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import NAMESPACE_OID, UUID, uuid5

from gpu_endpoint.failures import MalformedJob

Workflow = dict[str, Any]

_OUTPUT_PREFIX_INPUT: Final = "filename_prefix"
_DECODE: Final = "VAEDecode"
_TILED_DECODE: Final = "VAEDecodeTiled"
_TILES: Final = {"tile_size": 256, "overlap": 64, "temporal_size": 32, "temporal_overlap": 8}
"""Half of the node's own defaults: this way is taken where memory has run out twice."""


@dataclass(frozen=True, slots=True)
class Node:
    """What a person calls a node."""

    node_id: str
    class_type: str
    title: str

    def __str__(self) -> str:
        return f"{self.class_type} “{self.title}” (node {self.node_id})"


def checked(workflow: object) -> Workflow:
    """The workflow of a job. Raises MalformedJob if it is none in ComfyUI's API format."""
    if not isinstance(workflow, dict) or not workflow:
        raise MalformedJob("the job has no workflow")
    for node_id, node in workflow.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise MalformedJob(f"node {node_id} of the workflow has no class_type")
        if not isinstance(node.get("inputs"), dict):
            raise MalformedJob(f"node {node_id} of the workflow has no inputs")
    return workflow


def prepared(workflow: Workflow, folder: str, input_names: Collection[str]) -> Workflow:
    """A copy whose outputs go to ``folder``, one file name for each node, and whose inputs come from there.

    ComfyUI answers an identical save with the name of the file that it wrote before, which is gone by now; and a second
    input of the same name might be the first user's.
    """
    ready = copy.deepcopy(workflow)
    for node_id, node in ready.items():
        inputs = node["inputs"]
        if _OUTPUT_PREFIX_INPUT in inputs:
            inputs[_OUTPUT_PREFIX_INPUT] = f"{folder}/node-{node_id}"
        # Only nodes that load: a user's prompt may happen to be a file's name.
        if "Load" in node["class_type"]:
            for name, value in inputs.items():
                if isinstance(value, str) and value in input_names:
                    inputs[name] = f"{folder}/{value}"
    return ready


def tiled(workflow: Workflow) -> Workflow | None:
    """A copy that decodes in tiles, slower and with less memory; None if it decodes nothing, or does so already."""
    if not any(is_decode(node) for node in workflow.values()):
        return None
    frugal = copy.deepcopy(workflow)
    for node in frugal.values():
        if is_decode(node):
            node["class_type"] = _TILED_DECODE
            node["inputs"] |= _TILES
    return frugal


def is_decode(node: Mapping[str, Any]) -> bool:
    """Whether it turns latents into pictures all at once."""
    return bool(node["class_type"] == _DECODE)


def saves(node: Mapping[str, Any]) -> bool:
    """Whether it writes files."""
    return _OUTPUT_PREFIX_INPUT in node["inputs"]


def samples(node: Mapping[str, Any]) -> bool:
    """Whether it is a sampler, whose steps are most of the work."""
    return "Sampler" in node["class_type"] and "latent_image" in node["inputs"]


def node_named(workflow: Workflow, node_id: str, class_type: str = "") -> Node:
    """The node of that id. One that a node made of itself has an id ``outer.inner``, and is called by the outer."""
    for known in (node_id, *_outer_ids(node_id)):
        if known in workflow:
            node = workflow[known]
            meta = node.get("_meta")
            title = meta.get("title") if isinstance(meta, dict) else None
            return Node(node_id, class_type or node["class_type"], title if isinstance(title, str) else known)
    return Node(node_id, class_type or "unknown", node_id)


def _outer_ids(node_id: str) -> Iterator[str]:
    for separator in (":", "."):
        if separator in node_id:
            yield node_id.split(separator)[0]


def model_files(node: Mapping[str, Any]) -> list[str]:
    """The model files that a node names."""
    endings = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
    return [value for value in node["inputs"].values() if isinstance(value, str) and value.endswith(endings)]


def prompt_id(attempt_id: str, run: int) -> str:
    """The attempt's own id for its first run, ids derived from it for others: ComfyUI would take an id twice."""
    try:
        own = UUID(attempt_id)
    except ValueError:
        own = uuid5(NAMESPACE_OID, attempt_id)
    return str(own if run == 0 else uuid5(own, str(run)))
