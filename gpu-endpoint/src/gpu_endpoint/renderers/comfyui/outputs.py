"""Which of the files that a finished prompt names is the one that was ordered. Pure, but for a look at the file."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from gpu_endpoint.failures import OutputMissing
from gpu_endpoint.renderers.comfyui.client import Job
from gpu_endpoint.renderers.comfyui.workflow import Workflow

_SAVES: Final = {"video": "SaveVideo", "image": "SaveImage"}
"""What saves an order: the catalogue allows exactly one such node in a workflow of that kind."""
_NUMBER: Final = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that history names, and the node that wrote it."""

    node_id: str
    path: Path


def named_files(job: Job, output_directory: Path) -> list[NamedFile]:
    """Every file of every kind that is meant to stay; temporary ones are not.

    Sorted by node, as a person sorts their ids, and then as the node names them: history is in the order in which nodes
    ran, which is another one where some were cached.

    Raises OutputMissing if one is named outside the output directory.
    """
    root = output_directory.resolve()
    found: dict[Path, NamedFile] = {}
    for node_id in sorted(job.outputs, key=_in_human_order):
        for item in _items(job.outputs[node_id]):
            if item.get("type") != "output" or not isinstance(item.get("filename"), str):
                continue
            path = (root / str(item.get("subfolder") or "") / item["filename"]).resolve()
            if not path.is_relative_to(root):
                raise OutputMissing("ComfyUI names a file outside its output directory")
            found.setdefault(path, NamedFile(node_id, path))
    return list(found.values())


def ordered_file(files: list[NamedFile], workflow: Workflow, kind: Literal["video", "image"], extension: str) -> Path:
    """The one with the ordered extension; if several have it, the first one of the node that saves orders.

    One order is one file. Raises OutputMissing if there is none, or it is empty.
    """
    candidates = [file for file in files if file.path.suffix.lower() == extension.lower()]
    if not candidates:
        endings = ", ".join(sorted({file.path.suffix for file in files})) or "none"
        raise OutputMissing(f"no {extension} file among the {len(files)} named ones ({endings})")
    saved = [file for file in candidates if workflow.get(file.node_id, {}).get("class_type") == _SAVES[kind]]
    path = (saved or candidates)[0].path
    if not path.is_file() or path.stat().st_size == 0:
        raise OutputMissing("the file that ComfyUI names is not there, or is empty")
    return path


def _in_human_order(node_id: str) -> list[tuple[int, int | str]]:
    """``9`` before ``10`` before ``10:2``."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in _NUMBER.split(node_id) if part]


def _items(by_kind: Any) -> Iterator[Mapping[str, Any]]:
    """The dictionaries in ``{kind: [...]}``; beside files there are flags and texts."""
    if isinstance(by_kind, Mapping):
        for kind in sorted(by_kind):
            if isinstance(by_kind[kind], list):
                yield from (item for item in by_kind[kind] if isinstance(item, Mapping))
