"""The published description of the messages is the one that the code says."""

from pathlib import Path

from contracts.asyncapi import render

ROOT = Path(__file__).parents[2]


def test_the_committed_asyncapi_document_is_current() -> None:
    expected = render(ROOT / "libs/contracts/examples")
    assert (ROOT / "docs/asyncapi.json").read_text(encoding="utf-8") == expected, "run `make docs`"
