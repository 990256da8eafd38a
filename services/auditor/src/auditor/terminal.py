"""Tables and records for a terminal, with rich: styled in a terminal, plain text in a pipe or a file.

A line is as long as its table needs: nothing is cut off at the width of a terminal, and ids can be copied.
"""

import re
import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, TextIO

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

WIDEST_CELL: Final = 100
"""Characters. A longer value of a table ends with an ellipsis."""
_UNBOUNDED_WIDTH: Final = 1_000_000
_PADDING: Final = (0, 2, 0, 0)
_TRAILING_SPACES: Final = re.compile(r" +((?:\x1b\[[0-9;]*m)*)$", re.MULTILINE)


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Iterable[int] = (),
    widest_cell: int | None = WIDEST_CELL,
) -> Table:
    """Aligned columns under their headings; ``right`` numbers the columns that are aligned to the right."""
    aligned_right = frozenset(right)
    grid = Table(box=None, pad_edge=False, padding=_PADDING)
    for number, heading in enumerate(headings):
        grid.add_column(heading, justify="right" if number in aligned_right else "left")
    grid.add_row(*(Rule(characters="-", style="") for _ in headings))
    for row in rows:
        grid.add_row(*(_cell(value, widest_cell) for value in row))
    return grid


def record(values: Iterable[tuple[str, object]]) -> Table:
    """One value a line, folded between its words where it is long, and never cut; null values are left out."""
    grid = Table(box=None, pad_edge=False, padding=_PADDING, show_header=False)
    grid.add_column()
    grid.add_column(no_wrap=True)
    for name, value in values:
        if value is not None:
            grid.add_row(name, _folded(_cell(value, None)))
    return grid


def _folded(text: Text) -> Text:
    """Keys of the library and links are words that are longer than a line: they stay whole, to be copied."""
    lines = textwrap.wrap(text.plain, WIDEST_CELL, break_long_words=False, break_on_hyphens=False)
    return Text("\n".join(lines))


def heading(text: str) -> Text:
    """A line that begins a part of the page."""
    return Text(text, style="bold")


def page(parts: Iterable[RenderableType]) -> Group:
    """The parts, one below the other, with an empty line between them."""
    spaced: list[RenderableType] = []
    for part in parts:
        spaced += [part] if not spaced else ["", part]
    return Group(*spaced)


def print_to(stream: TextIO, part: RenderableType) -> None:
    """Write ``part`` to ``stream``: with styles if that is a terminal."""
    console = Console(
        file=stream,
        width=_UNBOUNDED_WIDTH,
        force_terminal=stream.isatty(),
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as capture:
        console.print(part)
    stream.write(_TRAILING_SPACES.sub(r"\1", capture.get()))


def _cell(value: object, widest: int | None) -> Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, datetime):
        return Text(f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z")
    text = "" if value is None else " ".join(str(value).split())
    # Texts of workers and providers may hold control characters, which a terminal would obey.
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return Text(shown if widest is None or len(shown) <= widest else f"{shown[: widest - 1]}…")
