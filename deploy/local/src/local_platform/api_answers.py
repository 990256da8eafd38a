"""What every endpoint answers, for ``docs/api.md``: ``python -m local_platform.api_answers docs/api.md``.

The bodies are the examples of the API's description, which a test holds against its schemas.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gateway.openapi import GENERAL_PROBLEMS
from local_platform.openapi import describe_api
from service_runtime.problems import CONTENT_TYPE

BEGIN: Final = "<!-- Answers: made by `make docs`. -->\n"
END: Final = "<!-- End of the answers. -->\n"
WIDTH: Final = 110
_OF_ALL: Final = {kind.code for kind in GENERAL_PROBLEMS} | {
    "not_authenticated",
    "sign_in_unavailable",
    "rate_limited",
}
"""Codes that need not be said of each endpoint."""


def render_answers(page: str, document: Mapping[str, Any]) -> str:
    """The page with the answers of every operation between the two marks. Raises ValueError if they are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("the page lacks the marks of the answers")
    return f"{before}{begin}\n{''.join(_sections(document))}{end}{after}"


def _sections(document: Mapping[str, Any]) -> Iterator[str]:
    shown: dict[str, str] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            title = f"`{method.upper()} {path}`"
            yield f"### {title}\n{_said(operation['responses'])}\n"
            body = _body(document, operation["responses"])
            if body is None:
                yield "\n"
            elif body in shown:
                yield f"The body is like that of {shown[body]}.\n\n"
            else:
                shown[body] = title
                yield f"\n```json\n{body}\n```\n\n"


def _said(responses: Mapping[str, Any]) -> str:
    """The statuses of success, and the codes of refusals, in a sentence each."""
    good = ", ".join(f"`{status}`" for status in responses if status.startswith(("2", "3")))
    codes = [
        f"`{code}` ({status})"
        for status, response in responses.items()
        for code in re.findall(r"^`(\w+)`:", response["description"], re.MULTILINE)
        if code not in _OF_ALL and CONTENT_TYPE in response.get("content", {})
    ]
    refusals = f"\nRefused with {_listed(codes)}." if codes else ""
    return f"Answers {good}.{refusals}"


def _listed(codes: Sequence[str]) -> str:
    lines, line = [], ""
    for code in codes:
        if line and len(line) + len(code) > WIDTH - 20:
            lines.append(line)
            line = ""
        line = f"{line}, {code}" if line else code
    return ",\n".join([*lines, line])


def _body(document: Mapping[str, Any], responses: Mapping[str, Any]) -> str | None:
    for status, response in responses.items():
        for content in response.get("content", {}).values():
            if status.startswith("2") and "$ref" in content["schema"]:
                schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
                return pretty(content.get("example", schema.get("example")))
    return None


def pretty(value: object, indent: int = 0) -> str:
    """JSON in lines as full as they can be, each value that fits on one line on one line."""
    compact = json.dumps(value, ensure_ascii=False)
    if indent + len(compact) <= WIDTH or not isinstance(value, dict | list):
        return compact
    if isinstance(value, dict):
        pieces = [f"{json.dumps(key)}: {pretty(one, indent + 1)}" for key, one in value.items()]
        opening, closing = "{}"
    else:
        pieces = [pretty(one, indent + 1) for one in value]
        opening, closing = "[]"
    lines: list[str] = []
    for piece in pieces:
        fits = lines and "\n" not in piece + lines[-1] and indent + len(lines[-1]) + len(piece) + 3 <= WIDTH
        if fits:
            lines[-1] += f", {piece}"
        else:
            lines.append(piece)
    return opening + f",\n{' ' * (indent + 1)}".join(lines) + closing


if __name__ == "__main__":
    api = Path(sys.argv[1])
    api.write_text(render_answers(api.read_text(encoding="utf-8"), describe_api()), encoding="utf-8")
