"""Reads ``/object_info`` of a ComfyUI, from a running server or from a file, for ``comfyui_nodes.json``."""

import json
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from catalogue.comfyui_nodes import condense, encode
from catalogue.loading import MODELS

_SECONDS: Final = 60


class VersionUnknown(Exception):
    """A file does not say which ComfyUI it is from."""


def used_classes() -> set[str]:
    """Every class of node in a workflow of the catalogue. The models need not be valid yet: a class may be new."""
    return {
        node["class_type"]
        for directory in MODELS.iterdir()
        if directory.is_dir()
        for file in directory.iterdir()
        if file.name.startswith("workflow")
        for node in json.loads(file.read_text()).values()
    }


def read_object_info(source: str, version: str | None, classes: set[str]) -> str:
    """The text of ``comfyui_nodes.json``.

    Raises VersionUnknown, ``UnknownClass``, OSError if the source does not answer, and ValueError if it is no JSON.
    """
    if source.startswith(("http://", "https://")):
        address = source.rstrip("/")
        version = version or _get(f"{address}/system_stats")["system"]["comfyui_version"]
        object_info = _get(f"{address}/object_info")
    else:
        object_info = json.loads(Path(source).read_text())
    if version is None:
        raise VersionUnknown("give --version: a file does not say which ComfyUI it is from")
    note = f"/object_info of ComfyUI {version}, read on {datetime.now(UTC):%Y-%m-%d} by `python -m catalogue nodes`"
    return encode(condense(object_info, classes, version, note))


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310 - the operator's own server
        return json.load(answer)
