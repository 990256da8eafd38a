"""The PromQL of the dashboards and the rules, with Grafana's variables filled in."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

OBSERVABILITY: Final = Path(__file__).parents[2] / "deploy/observability"
VARIABLES: Final = {
    "$__rate_interval": "1m",
    "$__range": "1h",
}


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One query of one panel, as it stands in the JSON."""

    board: str
    title: str
    expr: str


def boards() -> dict[str, Any]:
    """The dashboards by file name."""
    return {path.name: json.loads(path.read_text()) for path in sorted((OBSERVABILITY / "dashboards").glob("*.json"))}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every panel that is no row, with the file that it stands in."""
    for name, board in boards().items():
        yield from ((name, panel) for panel in board["panels"] if panel["type"] != "row")


def panel_queries() -> list[PanelQuery]:
    """Every PromQL query of every panel."""
    return [
        PanelQuery(name, panel["title"], target["expr"])
        for name, panel in panels()
        for target in panel["targets"]
        if "expr" in target
    ]


def rule_groups() -> list[dict[str, Any]]:
    """Every recording rule and alert, in their groups."""
    groups: list[dict[str, Any]] = yaml.safe_load((OBSERVABILITY / "rules/reelhouse.yaml").read_text())["groups"]
    return groups


def rules() -> list[dict[str, Any]]:
    """Every recording rule and alert."""
    return [rule for group in rule_groups() for rule in group["rules"]]


def filled(expr: str, rate_interval: str = VARIABLES["$__rate_interval"]) -> str:
    """``expr`` with every variable of Grafana replaced by a value."""
    for name, value in (VARIABLES | {"$__rate_interval": rate_interval}).items():
        expr = re.sub(re.escape(name) + r"\b", value, expr)
    assert "$" not in expr, f"an unknown variable in {expr}"
    return expr
