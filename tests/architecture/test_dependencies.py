"""Each member declares what it imports: an image has the declared packages and no others."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
MEMBERS: Final = sorted(
    file.parent
    for pattern in ("libs/*", "services/*", "deploy/local", "deploy/provisioning")
    for file in ROOT.glob(f"{pattern}/pyproject.toml")
)
DISTRIBUTIONS: Final = {name: list(found) for name, found in packages_distributions().items()} | {
    module.name: [module.name] for member in MEMBERS for module in (member / "src").iterdir()
}
"""Distributions by the modules that they bring; ours are not installed as files, so they are named here."""


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: str(member.relative_to(ROOT)))
def test_every_member_that_is_imported_is_declared(member: Path) -> None:
    project = tomllib.loads((member / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project.get("optional-dependencies", {}).values())]
    declared = {_normal(re.split(r"[\[<>=;~! ]", one)[0]) for one in wanted}
    own = _normal(project["name"])
    missing = {
        module
        for module in _imported(member / "src")
        if module in DISTRIBUTIONS
        and own not in (names := {_normal(name) for name in DISTRIBUTIONS[module]})
        and not names & declared
    }
    assert missing == set()


def _imported(sources: Path) -> set[str]:
    """Top-level modules that any file imports, the standard library left out."""
    found: set[str] = set()
    for file in sources.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names)


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")
