"""Draws a dashboard from what its own queries return, for the README.

No Grafana is needed: the panels stand as the boards place them, and each picture says how it was made.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import matplotlib.dates
import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from deploy.observability.panels import Board, Panel, Row

mpl.use("Agg")

COLUMNS: Final = 24
INCHES_WIDE: Final = 12.0
DOTS_PER_INCH: Final = 90
ROW_INCHES: Final = 2.0
_HEADING: Final = 0.4
_GAP: Final = 0.1
SMALL: Final = 7.5
COLOURS: Final = ("#3274d9", "#299c46", "#e0752d", "#7c5bb5", "#c4162a", "#00a3a3", "#b58900", "#777777")
LINE_CHARACTERS: Final = 200
"""Of a table that is as wide as the picture."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: seconds since 1970, and values."""

    legend: str
    times: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a panel shows: series, or rows with their columns."""

    series: Sequence[Series] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()


def draw(board: Board, shown: Mapping[str, Drawn], path: Path, note: str) -> None:
    """Write the picture of ``board``; ``shown`` has what each panel's queries returned, by its title."""
    lines = [(None if number else row.title, line) for row in board.rows for number, line in enumerate(_lines(row))]
    heights = [_height(line, shown) + (_GAP if heading is None else _HEADING) for heading, line in lines]
    total = sum(heights) + 1.0
    figure = Figure(figsize=(INCHES_WIDE, total), dpi=DOTS_PER_INCH, facecolor="#f4f5f5")
    figure.text(0.02, 1 - 0.3 / total, board.title, fontsize=14, weight="bold", va="center")
    figure.text(0.02, 0.2 / total, note, fontsize=SMALL, color="#555555", va="center")
    top = total - 0.6
    for (heading, line), height in zip(lines, heights, strict=True):
        if heading is not None:
            figure.text(0.02, (top - 0.15) / total, heading, fontsize=10, weight="bold", va="center")
        upper, lower = top - (_GAP if heading is None else _HEADING) - 0.25, top - height + 0.3
        edges = {"left": 0.045, "right": 0.985, "top": upper / total, "bottom": lower / total}
        grid = GridSpec(1, COLUMNS, figure, wspace=1.2, **edges)
        place = 0
        for panel in line:
            _draw_panel(figure.add_subplot(grid[0, place : place + panel.width]), panel, shown[panel.title])
            place += panel.width
        top -= height
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, pil_kwargs={"optimize": True})


def _lines(row: Row) -> list[list[Panel]]:
    """Panels side by side, as many as fit into the width."""
    lines: list[list[Panel]] = [[]]
    for panel in row.panels:
        if sum(one.width for one in lines[-1]) + panel.width > COLUMNS:
            lines.append([])
        lines[-1].append(panel)
    return lines


def _height(line: Sequence[Panel], shown: Mapping[str, Drawn]) -> float:
    rows = max(len(shown[panel.title].rows) for panel in line)
    return ROW_INCHES if rows == 0 else 0.75 + 0.17 * (rows + 1)


def _draw_panel(axes: Axes, panel: Panel, drawn: Drawn) -> None:
    axes.set_title(panel.title, fontsize=8.5, loc="left", pad=5)
    for side in axes.spines.values():
        side.set_color("#d8d9da")
    if panel.kind == "rows":
        _draw_rows(axes, panel, drawn)
    elif panel.kind == "stat":
        _draw_number(axes, panel, drawn)
    else:
        _draw_series(axes, panel, drawn)


def _draw_number(axes: Axes, panel: Panel, drawn: Drawn) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    values = [value for one in drawn.series for value in one.values[-1:] if not math.isnan(value)]
    text = _number(values[-1], panel.unit) if values else "no data"
    axes.text(0.5, 0.5, text, fontsize=20, ha="center", va="center", color="#299c46", transform=axes.transAxes)


def _draw_series(axes: Axes, panel: Panel, drawn: Drawn) -> None:
    for number, one in enumerate(drawn.series):
        days = [seconds / 86_400 for seconds in one.times]
        axes.plot(days, list(one.values), linewidth=1.2, color=COLOURS[number % len(COLOURS)], label=one.legend)
    axes.tick_params(labelsize=6.5, length=2, colors="#555555")
    axes.xaxis.set_major_formatter(mpl.dates.DateFormatter("%H:%M"))
    axes.xaxis.set_major_locator(mpl.dates.AutoDateLocator(minticks=2, maxticks=5))
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: _number(value, panel.unit))
    axes.grid(color="#eeeeee")
    known = [value for one in drawn.series for value in one.values if not math.isnan(value)]
    highest, lowest = max(known, default=0.0), min(known, default=0.0)
    axes.set_ylim(min(0.0, lowest * 1.15), highest * 1.15 if highest > 0 else 1.0)
    if any(one.legend for one in drawn.series):
        axes.legend(fontsize=5.5, loc="upper left", frameon=False, ncol=2, handlelength=1.2, columnspacing=0.8)


def _draw_rows(axes: Axes, panel: Panel, drawn: Drawn) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    used = [place for place in range(len(drawn.columns)) if any(row[place] is not None for row in drawn.rows)]
    cells = [[drawn.columns[place] for place in used], *([_cell(row[place]) for place in used] for row in drawn.rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(used))]
    room = LINE_CHARACTERS * panel.width // COLUMNS
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    axes.text(
        0.008,
        0.94,
        "\n".join(line[:room].rstrip() for line in lines),
        fontsize=6.6,
        family="monospace",
        va="top",
        linespacing=1.45,
        transform=axes.transAxes,
    )


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%H:%M:%S.%f}"[:-3]
    return "" if value is None else str(value)


def _number(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value * 100:.4g} %"
    suffix = {"s": " s", "ops": "/s", "reqps": "/s"}.get(unit, "")
    return f"{value:.3g}{suffix}"


def legend_of(template: str, labels: Mapping[str, Any]) -> str:
    """Grafana's ``{{label}}`` filled in."""
    for name, value in labels.items():
        template = template.replace("{{" + name + "}}", str(value))
    return template.split("{{")[0].strip()
