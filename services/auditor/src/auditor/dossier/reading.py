"""Asking every schema about an id, at one moment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from auditor.dossier.identities import Key, Meaning, checked, find_meanings, uuid_of
from auditor.dossier.sections import HOPS, ORDERS, QUESTIONS, Question, own_rows
from auditor.errors import UnknownIdentity
from auditor.schemas import snapshot
from auditor.timeline import Hop, timeline

ROWS_PER_SECTION: Final = 50
HOPS_SHOWN: Final = 200
MOST_ROWS: Final = 100_000
"""Of a section or a timeline, when everything is asked for: what a terminal's memory bears."""

_HELD_BACK: Final = frozenset(("body", "body_sha256", "content_hash", "request_hash"))
"""Columns that tell an operator nothing, or more about a person than a terminal needs."""
_SHOWN_IN_SECTIONS: Final = frozenset(("a generation", "a payment", "a user"))

_TYPES: Final = {"argument": "text", "argument_id": "uuid", "id": "uuid", "key": "text", "orders": "uuid[]"}
_PARAMETER: Final = re.compile(r"(?<!:):([a-z_]+)")


@dataclass(frozen=True, slots=True)
class Section:
    """What one table says: the first ``rows`` of ``total``. One row is shown as a record, several as a table."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    total: int
    whole_records: bool


@dataclass(frozen=True, slots=True)
class Chapter:
    """Everything about one generation, payment or user. ``hops`` are the latest of ``hops_total``."""

    meaning: Meaning
    hops: tuple[Hop, ...]
    hops_total: int
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Dossier:
    """The answer to "what happened to this id?": a chapter for each thing that it belongs to, nearly always one."""

    argument: str
    chapters: tuple[Chapter, ...]
    everything: bool


async def dossier(engine: AsyncEngine, argument: str, everything: bool = False) -> Dossier:
    """Look in every schema for ``argument``, an id of the platform or of a provider, on one snapshot.

    ``everything``: all rows (up to MOST_ROWS a section), not the latest alone. Raises UnknownIdentity if there is no
    trace of it, UnusableIdentity if it cannot be an id.
    """
    asked = checked(argument)
    async with snapshot(engine) as connection:
        meanings = await find_meanings(connection, asked)
        chapters = [await _chapter(connection, asked, meaning, everything) for meaning in meanings]
    known = tuple(chapter for chapter in chapters if chapter.meaning.what or chapter.hops or chapter.sections)
    if not known:
        raise UnknownIdentity(f"{asked} is nobody's: no service knows it, and no message or finding mentions it")
    return Dossier(asked, known, everything)


async def _chapter(connection: AsyncConnection, argument: str, meaning: Meaning, everything: bool) -> Chapter:
    subject = meaning.subject
    values: dict[str, Any] = {
        "id": subject.uuid,
        "key": subject.key,
        "argument": argument,
        "argument_id": uuid_of(argument),
    }
    values["orders"] = list((await connection.execute(_typed(ORDERS[subject.kind]), values)).scalars())
    limit = MOST_ROWS if everything else ROWS_PER_SECTION
    found = [await _own_section(connection, key, values, limit) for key in meaning.keys if not _is_subject(key)]
    for question in QUESTIONS:
        where = question.where.get(subject.kind)
        if where is not None:
            found.append(await _section(connection, question, where, values, limit))
    hops: list[Hop] = []
    if subject.uuid is not None:
        hops = await timeline(connection, subject.uuid, MOST_ROWS if everything else HOPS_SHOWN)
    total = await connection.scalar(_typed(HOPS), values)
    return Chapter(meaning, tuple(hops), total or 0, tuple(section for section in found if section.rows))


def _is_subject(key: Key) -> bool:
    return key.what in _SHOWN_IN_SECTIONS


async def _section(
    connection: AsyncConnection, question: Question, where: str, values: Mapping[str, Any], limit: int
) -> Section:
    query = question.query.replace("{where}", where)
    return await _read(connection, question.title, query, values, limit, question.whole_records)


async def _own_section(connection: AsyncConnection, key: Key, values: Mapping[str, Any], limit: int) -> Section:
    return await _read(connection, f"This id in {key.table}", own_rows(key), values, limit, whole_records=False)


async def _read(
    connection: AsyncConnection, title: str, query: str, values: Mapping[str, Any], limit: int, whole_records: bool
) -> Section:
    result = await connection.execute(
        _typed(f"SELECT *, count(*) OVER () FROM ({query}) AS part LIMIT {limit}"),  # noqa: S608
        values,
    )
    names = list(result.keys())[:-1]
    rows = result.all()
    shown = [place for place, name in enumerate(names) if name not in _HELD_BACK]
    return Section(
        title=title,
        columns=tuple(names[place] for place in shown),
        rows=tuple(tuple(_told(row[place]) for place in shown) for row in rows),
        total=rows[0][-1] if rows else 0,
        whole_records=whole_records,
    )


def _typed(query: str) -> TextClause:
    """Parameters with their types, which the database cannot always infer."""
    return text(_PARAMETER.sub(lambda match: f"CAST({match[0]} AS {_TYPES[match[1]]})", query))


def _told(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
