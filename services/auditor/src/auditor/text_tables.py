"""Tables for a terminal."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

WIDEST_CELL: Final = 100


def render_table(headings: Sequence[str], rows: Iterable[Sequence[Any]], right: Iterable[int] = ()) -> str:
    """Columns in line, long values cut off with an ellipsis; ``right`` numbers the columns aligned to the right."""
    aligned_right = frozenset(right)
    lines = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[number]) for line in [list(headings), *lines]) for number in range(len(headings))]

    def joined(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if number in aligned_right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    rule = ["-" * width for width in widths]
    return "\n".join(joined(cells) for cells in [list(headings), rule, *lines])


def render_record(values: Iterable[tuple[str, Any]]) -> str:
    """One value a line; what is null is left out."""
    present = [(name, _cell(value)) for name, value in values if value is not None]
    width = max((len(name) for name, _ in present), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in present)


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= WIDEST_CELL else f"{text[: WIDEST_CELL - 1]}…"
