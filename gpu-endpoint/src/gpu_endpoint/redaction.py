"""Taking out of a text what an operator must not read: a user's words, signed addresses, keys."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

LONGEST_DETAIL: Final = 800
_SHORTEST_WORDS: Final = 4
"""A shorter text says nothing of its author, and would be found everywhere."""

_PATTERNS: Final = (
    (re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE), "<address>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "<address>"),
    (re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+"), "<address>"),
    (re.compile(r"\b(?:bearer|basic)\s+\S+", re.IGNORECASE), "<key>"),
    (re.compile(r"\b[\w-]*(?:token|secret|password|api_?key|signature)[\w-]*\s*[=:]\s*\S+", re.IGNORECASE), "<key>"),
    (re.compile(r"\b(?:sk|pk|rpa|hf|ghp)[-_]\w{8,}"), "<key>"),
    (re.compile(r"(?<![\w/.-])[A-Za-z0-9+/_-]{40,}={0,2}(?![\w/.-])"), "<key>"),
)


class Redactor:
    """Knows the texts of one job."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._words = sorted(set(_texts(parameters)), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text without them, on one line, and of at most 800 characters."""
        for words in self._words:
            text = text.replace(words, "<user's words>")
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        text = " ".join(text.split())
        return text if len(text) <= LONGEST_DETAIL else f"{text[: LONGEST_DETAIL - 1]}…"


def _texts(value: Any) -> Iterator[str]:
    """Every text in it: whole, as Python and JSON would quote it, and line by line."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        for text in (value, repr(value)[1:-1], *value.splitlines()):
            if len(text) >= _SHORTEST_WORDS:
                yield text
