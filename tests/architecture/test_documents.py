"""Generated documents say what the code says."""

from pathlib import Path

from local_platform.statuses import render

ROOT = Path(__file__).parents[2]


def test_the_page_about_statuses_is_current() -> None:
    assert (ROOT / "docs/statuses.md").read_text(encoding="utf-8") == render(), "run `make docs`"
