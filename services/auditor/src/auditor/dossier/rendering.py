"""A dossier as text for a terminal. A record is never cut; a table says where it is."""

import textwrap
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from auditor.dossier.identities import uuid_of
from auditor.dossier.reading import Chapter, Dossier, Section
from auditor.text_tables import WIDEST_CELL, render_record, render_table
from auditor.timeline import render_timeline

TRACES_SHOWN: Final = 5
_CUT: Final = f"(… is where a text was cut at {WIDEST_CELL} characters: whole with --all)"


def render_dossier(dossier: Dossier) -> str:
    """What the id is, then for each thing that it belongs to the timeline and what each service holds."""
    parts: list[str] = []
    for chapter in dossier.chapters:
        parts.append(f"# {_identified(dossier.argument, chapter)}")
        if chapter.hops:
            parts += _timeline(chapter, dossier.everything)
        parts += [_section(section, dossier.everything) for section in chapter.sections]
    return "\n\n".join(parts)


def _identified(argument: str, chapter: Chapter) -> str:
    what, subject = " and ".join(chapter.meaning.what), chapter.meaning.subject
    if not what:
        return f"{argument} is held by no service: only messages or findings mention it"
    if subject.kind == "mention":
        return f"{argument} is {what} and belongs to no generation, payment or user"
    if subject.uuid == uuid_of(argument):
        return f"{argument} is {what}"
    return f"{argument} is {what} and belongs to {subject.kind} {subject.key}"


def _timeline(chapter: Chapter, everything: bool) -> list[str]:
    hops = list(chapter.hops)
    parts = [f"## Timeline{_share(len(hops), chapter.hops_total)}\n{render_timeline(hops)}"]
    cut = [hop for hop in hops if len(hop.summary) > WIDEST_CELL]
    if cut:
        parts.append(
            _record((f"{hop.occurred_at:%H:%M:%S} {hop.name}", hop.summary) for hop in cut) if everything else _CUT
        )
    traces = sorted({hop.trace_id for hop in hops if hop.trace_id})
    if traces:
        shown = traces if everything else traces[:TRACES_SHOWN]
        parts.append(f"traces: {', '.join(shown)}{_share(len(shown), len(traces))}")
    return parts


def _share(shown: int, total: int) -> str:
    """What of it is shown, if that is not all."""
    return "" if shown >= total else f": {shown} of {total}, the rest with --all"


def _section(section: Section, everything: bool) -> str:
    heading = f"## {section.title}{_share(len(section.rows), section.total)}"
    cut = any(len(str(value)) > WIDEST_CELL for row in section.rows for value in row)
    if len(section.rows) == 1 or section.whole_records or (cut and everything):
        records = (_record(zip(section.columns, row, strict=True)) for row in section.rows)
        return heading + "\n" + "\n\n".join(records)
    return f"{heading}\n{_table(section)}" + (f"\n{_CUT}" if cut else "")


def _record(values: Iterable[tuple[str, Any]]) -> str:
    """One value a line, and as many lines as a long one needs: no record is cut."""
    return render_record(line for name, value in values for line in _lines(name, value))


def _lines(name: str, value: Any) -> list[tuple[str, Any]]:
    if value is None or isinstance(value, datetime):
        return [(name, value)]
    lines = textwrap.wrap(str(value), WIDEST_CELL, break_on_hyphens=False) or [""]
    return [(name, lines[0]), *(("", line) for line in lines[1:])]


def _table(section: Section) -> str:
    used: Sequence[int] = [
        number for number in range(len(section.columns)) if any(row[number] is not None for row in section.rows)
    ]
    rows = [[row[number] for number in used] for row in section.rows]
    numbers = [place for place in range(len(used)) if all(isinstance(row[place], int | None) for row in rows)]
    return render_table([section.columns[number] for number in used], rows, right=numbers)
