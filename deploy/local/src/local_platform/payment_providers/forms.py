"""Stripe's form encoding: ``line_items[0][price_data][currency]=usd`` and back into nested values."""

import re
from typing import Any
from urllib.parse import parse_qsl

_PART = re.compile(r"\[([^\]]*)\]")


def parse(encoded: str) -> dict[str, Any]:
    """Nested dictionaries and lists; every leaf is a string, as it came."""
    root: dict[str, Any] = {}
    for name, value in parse_qsl(encoded, keep_blank_values=True):
        first, _, rest = name.partition("[")
        path = [first, *_PART.findall("[" + rest)] if rest else [first]
        _put(root, path, value)
    converted = _lists(root)
    assert isinstance(converted, dict)
    return converted


def _put(node: dict[str, Any], path: list[str], value: str) -> None:
    for part in path[:-1]:
        node = node.setdefault(part or str(len(node)), {})
    last = path[-1] or str(len(node))
    node[last] = value


def _lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    children = {key: _lists(child) for key, child in node.items()}
    if children and all(key.isdigit() for key in children):
        return [children[key] for key in sorted(children, key=int)]
    return children
