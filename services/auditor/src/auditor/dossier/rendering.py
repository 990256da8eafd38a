"""A dossier for a terminal. A record is never cut; a table says where it is."""

from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from auditor.dossier.identities import uuid_of
from auditor.dossier.reading import Chapter, Dossier, Section, Total
from auditor.file_checks import CheckedFile
from auditor.terminal import WIDEST_CELL, heading, page, record, table
from auditor.timeline import render_timeline

TRACES_SHOWN: Final = 5
_FILES: Final = "## Files in the library"
_CUT: Final = Text(f"(… is where a text was cut at {WIDEST_CELL} characters: whole with --all)")


def render_dossier(dossier: Dossier) -> Group:
    """What the id is, then for each subject that it belongs to the timeline and the rows of every service."""
    parts: list[RenderableType] = []
    for chapter in dossier.chapters:
        parts.append(heading(f"# {_identified(dossier.argument, chapter)}"))
        if chapter.newest_orders is not None:
            newest = f"{chapter.newest_orders:,}"
            parts.append(Text(f"more than {newest} orders: shown is what belongs to the newest, the rest with --all"))
        if chapter.hops:
            parts += _timeline(chapter, dossier.all_rows)
        parts += [_section(section, dossier.all_rows) for section in chapter.sections]
    return page(parts)


def render_files(files: Sequence[CheckedFile]) -> Group:
    """Each file of the library as it is now, and a link to it."""
    return page(["", heading(f"{_FILES}, read now"), *(_file(one) for one in files)])


def render_unread_files(reason: str) -> Group:
    """Why the files could not be read."""
    return page(["", heading(_FILES), f"not read: {reason}"])


def _file(checked: CheckedFile) -> Table:
    difference = checked.difference
    verdict = "deleted by its user" if checked.recorded.is_deleted else "as recorded"
    if difference is not None:
        verdict = f"{difference.kind.upper()}: expected {difference.expected}, found {difference.found}"
    is_there = not checked.recorded.is_deleted if difference is None else difference.kind != "missing"
    link = checked.link if is_there else None
    return record([("file", checked.recorded.object_key), ("verdict", verdict), ("link", link)])


def _identified(argument: str, chapter: Chapter) -> str:
    description, subject = " and ".join(chapter.identification.descriptions), chapter.identification.subject
    if not description:
        return f"{argument} is held by no service: only messages or findings mention it"
    if subject.kind == "mention":
        return f"{argument} is {description} and belongs to no generation, payment or user"
    if subject.uuid == uuid_of(argument):
        return f"{argument} is {description}"
    return f"{argument} is {description} and belongs to {subject.kind} {subject.key}"


def _timeline(chapter: Chapter, all_rows: bool) -> list[RenderableType]:
    hops = list(chapter.hops)
    title = heading(f"## Timeline{_share(len(hops), chapter.hops_total)}")
    parts: list[RenderableType] = [Group(title, render_timeline(hops))]
    cut = [hop for hop in hops if len(hop.summary) > WIDEST_CELL]
    if cut and all_rows:
        parts.append(record((f"{hop.occurred_at:%H:%M:%S} {hop.name}", hop.summary) for hop in cut))
    elif cut:
        parts.append(_CUT)
    traces = sorted({hop.trace_id for hop in hops if hop.trace_id})
    if traces:
        shown = traces if all_rows else traces[:TRACES_SHOWN]
        parts.append(Text(f"traces: {', '.join(shown)}{_share(len(shown), Total(len(traces)))}"))
    return parts


def _share(shown: int, total: Total) -> str:
    """How many are shown, if that is not all."""
    if shown >= total.number and not total.is_more:
        return ""
    return f": {shown} of {'more than ' if total.is_more else ''}{total.number}, the rest with --all"


def _section(section: Section, all_rows: bool) -> Group:
    title = heading(f"## {section.title}{_share(len(section.rows), section.total)}")
    is_cut = any(len(str(value)) > WIDEST_CELL for row in section.rows for value in row)
    if len(section.rows) == 1 or section.whole_records or (is_cut and all_rows):
        return Group(title, page(record(zip(section.columns, row, strict=True)) for row in section.rows))
    return Group(title, _table(section), *([_CUT] if is_cut else []))


def _table(section: Section) -> RenderableType:
    used: Sequence[int] = [
        number for number in range(len(section.columns)) if any(row[number] is not None for row in section.rows)
    ]
    rows = [[row[number] for number in used] for row in section.rows]
    numbers = [place for place in range(len(used)) if all(isinstance(row[place], int | None) for row in rows)]
    return table([section.columns[number] for number in used], rows, right=numbers)
