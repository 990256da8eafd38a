"""What differs between the description and RunPod, field by field. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gpu_endpoint.deploy.description import Fields

_UNSORTED_LISTS: Final = frozenset({"dataCenterIds", "networkVolumeIds", "allowedCudaVersions"})
"""RunPod gives some of them as one text with commas."""


@dataclass(frozen=True)
class Difference:
    """One field, or one variable of an environment. ``line`` holds no value of a variable: it may be a secret."""

    field: str
    line: str


def differences(wanted: Fields, found: Mapping[str, Any], applied: Mapping[str, str]) -> list[Difference]:
    """What must change. ``applied`` has the digests of what was sent last, for fields that RunPod does not show."""
    changes: list[Difference] = []
    for field, value in wanted.items():
        if field not in found or found[field] is None:
            if applied[field] != digest(value) if field in applied else not _empty(value):
                changes.append(Difference(field, f"{field}: RunPod does not show it, and it was not sent yet"))
        elif field == "env":
            changes += _environment_differences(value, found[field])
        elif _comparable(field, value) != _comparable(field, found[field]):
            changes.append(Difference(field, f"{field}: {_shown(found[field])} -> {_shown(value)}"))
    return changes


def digests(fields: Fields) -> dict[str, str]:
    """What was sent, without the values, and without the environment, which RunPod shows."""
    return {field: digest(value) for field, value in fields.items() if field != "env"}


def digest(value: Any) -> str:
    """The SHA-256 of the value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _environment_differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[Difference]:
    return [
        Difference("env", f"env.{name}: {word}")
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
        for word in ["missing" if name not in found else "not in the description" if name not in wanted else "differs"]
    ]


def _empty(value: Any) -> bool:
    return value in ("", [], {}, 0, False)


def _comparable(field: str, value: Any) -> Any:
    if field in _UNSORTED_LISTS:
        values = value.split(",") if isinstance(value, str) else value
        return sorted(part.strip() for part in values if part.strip())
    return value


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
