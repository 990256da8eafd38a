"""What a C2PA reader says about a file, as somebody else would read it."""

import io
import json
from dataclasses import dataclass
from typing import Any

import c2pa


@dataclass(frozen=True, slots=True)
class Mark:
    """``state`` is ``Trusted`` (the root is known and all is valid), ``Valid`` or ``Invalid``."""

    state: str
    action: str
    source_type: str


def mark_of(body: bytes, content_type: str, root: str | None = None) -> Mark | None:
    """The mark of a file, read with ``root`` as the only root that is trusted; None if there is none."""
    trust: dict[str, Any] = {"trust": {"trust_anchors": root}} if root is not None else {}
    settings = {"version": 1, "verify": {"remote_manifest_fetch": False, "verify_trust": root is not None}}
    context = c2pa.Context(c2pa.Settings.from_dict(settings | trust))
    reader = c2pa.Reader.try_create(content_type, io.BytesIO(body), context=context)
    if reader is None:
        return None
    with reader:
        manifests = json.loads(reader.json())
    active = manifests["manifests"][manifests["active_manifest"]]
    (action,) = next(one["data"]["actions"] for one in active["assertions"] if one["label"].startswith("c2pa.actions"))
    return Mark(manifests["validation_state"], action["action"], action.get("digitalSourceType", ""))
