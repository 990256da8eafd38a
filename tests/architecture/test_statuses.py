"""Every status of every aggregate has its meaning, and the documents show it."""

from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from local_platform.statuses import AGGREGATES

ROOT = Path(__file__).parents[2]
MODULES = [
    import_module(".".join(path.relative_to(source).with_suffix("").parts))
    for source in sorted(ROOT.glob("services/*/src"))
    for path in sorted(source.rglob("statuses.py"))
]
MEANINGS: dict[str, tuple[Any, Any]] = {
    f"{module.__name__}.{name}": (hint, getattr(module, name))
    for module in MODULES
    for name, hint in get_type_hints(module).items()
    if name.endswith("_MEANING")
}


@pytest.mark.parametrize("name", MEANINGS)
def test_every_status_has_its_meaning_and_a_place_in_the_documents(name: str) -> None:
    hint, meanings = MEANINGS[name]
    (mapping,) = get_args(hint)  # Final[Mapping[Status, StatusMeaning]]
    status, _ = get_args(mapping)
    assert tuple(meanings) == get_args(status)
    assert any(shown is meanings for shown in AGGREGATES.values())


def test_the_documents_show_no_other_meanings() -> None:
    assert len(MEANINGS) == len(AGGREGATES)
