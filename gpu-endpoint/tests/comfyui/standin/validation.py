"""Which part of a prompt can run, and what is wrong with the rest."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.comfyui.standin.nodes import NODES
from tests.comfyui.standin.settings import StandInSettings

Prompt = Mapping[str, Any]


@dataclass
class Verdict:
    """``outputs`` are those that can run."""

    outputs: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    node_errors: dict[str, Any] = field(default_factory=dict)


def validate(prompt: Prompt, settings: StandInSettings) -> Verdict:
    """As ComfyUI does: output by output, so that the good ones run beside bad ones."""
    for node_id, node in prompt.items():
        if node["class_type"] not in NODES:
            about = {"node_id": node_id, "class_type": node["class_type"], "node_title": _title(node)}
            return Verdict(error=_error("missing_node_type", about))
    outputs = [node_id for node_id, node in prompt.items() if NODES[node["class_type"]].output]
    if not outputs:
        return Verdict(error=_error("prompt_no_outputs", {}))
    verdict = Verdict()
    for output in outputs:
        wrong = {
            node_id: found for node_id in upstream(prompt, output) if (found := _errors(prompt[node_id], settings))
        }
        if not wrong:
            verdict.outputs.append(output)
        for node_id, errors in wrong.items():
            entry = verdict.node_errors.setdefault(
                node_id, {"errors": errors, "dependent_outputs": [], "class_type": prompt[node_id]["class_type"]}
            )
            entry["dependent_outputs"].append(output)
    if not verdict.outputs:
        verdict.error = _error("prompt_outputs_failed_validation", {})
    return verdict


def upstream(prompt: Prompt, node_id: str) -> list[str]:
    """The node and all that it needs, what is needed first."""
    ordered: list[str] = []

    def visit(current: str) -> None:
        if current not in ordered:
            for source in links(prompt[current]):
                visit(source)
            ordered.append(current)

    visit(node_id)
    return ordered


def links(node: Mapping[str, Any]) -> Iterator[str]:
    """The nodes whose outputs a node takes."""
    for value in node["inputs"].values():
        if isinstance(value, list):
            yield value[0]


def _errors(node: Mapping[str, Any], settings: StandInSettings) -> list[dict[str, Any]]:
    kind, inputs = NODES[node["class_type"]], node["inputs"]
    if inputs.get("trap") == "unreadable":
        raise ValueError("answered with 500, as what ComfyUI does not expect is")
    found = [_error("required_input_missing", {"input_name": name}) for name in kind.required if name not in inputs]
    for name, (_, highest) in kind.limits.items():
        if isinstance(inputs.get(name), int) and inputs[name] > highest:
            found.append(_about_value("value_bigger_than_max", name, inputs[name]))
    for name in kind.files:
        if str(inputs.get(name, "")).startswith("missing"):
            found.append(_about_value("value_not_in_list", name, inputs[name]))
    if node["class_type"] == "LoadImage" and not (settings.input_directory / inputs["image"]).is_file():
        found.append(_error("custom_validation_failed", {"input_name": "image"}))
    return found


def _about_value(kind: str, name: str, value: object) -> dict[str, Any]:
    return _error(kind, {"input_name": name, "input_config": [], "received_value": value})


def _error(kind: str, extra_info: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "message": kind.replace("_", " "), "details": "", "extra_info": extra_info}


def _title(node: Mapping[str, Any]) -> str:
    title: str = node.get("_meta", {}).get("title", node["class_type"])
    return title
