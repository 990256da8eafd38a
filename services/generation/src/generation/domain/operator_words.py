"""The words of workers and providers, made fit for operators. A customer never reads them: ``FAILURE_SENTENCES``."""

import re
from typing import Final

_PATTERNS: Final = (
    (re.compile(r"\b[a-z][a-z0-9+.-]{0,30}://[^\s\"'<>]+", re.IGNORECASE), "<address>"),
    (re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}\.[\w.]+"), "<address>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "<address>"),
    (re.compile(r"\b(?:bearer|basic)\s+[\w.~+/=-]+", re.IGNORECASE), "<key>"),
    (re.compile(r"\b(?:sk|rk|pk|rpa|hf|ghp)[-_]\w{8,}"), "<key>"),
    (re.compile(r"\beyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*"), "<key>"),
    (
        re.compile(r"\b[\w-]{0,40}(?:token|secret|password|api_?key|signature)\s*[=:]\s*[^\s\"',;]+", re.IGNORECASE),
        "<key>",
    ),
)
"""Addresses, which may carry a signature, and keys."""
_LONGEST: Final = 4000
"""What is longer is cut before it is searched: a worker may say 20 MB."""


def operator_words(text: str) -> str:
    """Without addresses and keys, without what the database refuses, and of at most 4000 characters."""
    text = text[:_LONGEST]
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
