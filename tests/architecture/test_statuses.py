"""Every status has a meaning, and every meaning is on the page about statuses."""

import re
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

from local_platform.statuses import AGGREGATES

ROOT = Path(__file__).parents[2]
DECLARATION = re.compile(r"^(\w+_MEANING): Final\[Mapping\[(\w+), StatusMeaning\]\]", re.MULTILINE)
DECLARED = [
    (".".join(source.relative_to(sources).with_suffix("").parts), name, statuses)
    for sources in ROOT.glob("services/*/src")
    for source in sources.rglob("*.py")
    for name, statuses in DECLARATION.findall(source.read_text())
]


@pytest.mark.parametrize(("module", "name", "statuses"), DECLARED, ids=lambda part: part)
def test_every_status_has_a_meaning_that_is_shown(module: str, name: str, statuses: str) -> None:
    declaring = import_module(module)
    meanings = getattr(declaring, name)
    known = getattr(declaring, statuses)
    assert set(meanings) == set(get_args(known) or known)
    assert any(shown is meanings for shown in AGGREGATES.values()), "add it to local_platform.statuses.AGGREGATES"


def test_the_page_shows_nothing_else() -> None:
    assert len(DECLARED) == len(AGGREGATES)
