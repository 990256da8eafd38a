"""Which of the files that a finished prompt names is the one that was ordered."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpu_endpoint.failures import OutputMissing
from gpu_endpoint.renderers.comfyui.client import Job


def named_files(job: Job, output_directory: Path) -> list[Path]:
    """Every file of every kind that is meant to stay, in the order of nodes. Temporary ones are not.

    Raises OutputMissing if one is named outside the output directory.
    """
    root = output_directory.resolve()
    found = []
    for item in _items(job.outputs):
        if item.get("type") != "output" or not isinstance(item.get("filename"), str):
            continue
        path = (root / str(item.get("subfolder") or "") / item["filename"]).resolve()
        if not path.is_relative_to(root):
            raise OutputMissing("ComfyUI names a file outside its output directory")
        if path not in found:
            found.append(path)
    return found


def ordered_file(files: list[Path], extension: str) -> Path:
    """The first that has the ordered file's extension. Raises OutputMissing if there is none, or it is empty."""
    of_kind = [path for path in files if path.suffix.lower() == extension.lower()]
    if not of_kind:
        endings = ", ".join(sorted({path.suffix for path in files})) or "none"
        raise OutputMissing(f"no {extension} file among the {len(files)} named ones ({endings})")
    path = of_kind[0]
    if not path.is_file() or path.stat().st_size == 0:
        raise OutputMissing("the file that ComfyUI names is not there, or is empty")
    return path


def _items(outputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The dictionaries in ``{node: {kind: [...]}}``; beside files there are flags and texts."""
    for by_kind in outputs.values():
        if isinstance(by_kind, Mapping):
            for items in by_kind.values():
                if isinstance(items, list):
                    yield from (item for item in items if isinstance(item, Mapping))
