"""What a dashboard says, before it is drawn: rows of panels, each with its unit and its queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["timeseries", "stat", "table", "rows"]
"""``rows`` is a table of what PostgreSQL answers; all others ask Prometheus."""


@dataclass(frozen=True, slots=True)
class Query:
    """One expression (PromQL, or SQL in a panel of ``rows``) and how its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. ``width`` is of 24 columns."""

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    kind: Kind = "timeseries"
    width: int = 8


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Input:
    """A text that the reader of a dashboard types in."""

    name: str
    label: str
    default: str
    description: str


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    inputs: Sequence[Input] = ()
    since: str = "now-6h"

    @property
    def panels(self) -> list[Panel]:
        """All panels, row by row."""
        return [panel for row in self.rows for panel in row.panels]
