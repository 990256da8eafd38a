"""Reads everything about an id from every schema, at one moment."""

import re
from dataclasses import asdict, dataclass, field
from typing import Final
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from auditor.dossier.identities import IdColumn, Identification, identify, uuid_of, validated
from auditor.dossier.sections import SECTION_QUERIES, SectionQuery, own_rows
from auditor.dossier.subjects import HOPS, ORDERS
from auditor.errors import UnknownIdentity
from auditor.schemas import snapshot
from auditor.timeline import Hop, first_message_of, read_timeline
from messaging.ids import FIRST_ID

ROWS_PER_SECTION: Final = 50
HOPS_SHOWN: Final = 200
COUNTED: Final = 1000
"""What is not shown is counted so far: a user may have any number of orders."""
NEWEST_ORDERS: Final = 200
"""Of a user with more orders, what belongs to orders is shown of the newest."""
MOST_ROWS: Final = 100_000
"""Of a section or a timeline, when all rows are asked for: as much as fits into memory."""

_OMITTED_COLUMNS: Final = frozenset(("body", "body_sha256", "content_hash", "request_hash"))
"""Columns that tell an operator nothing, or more about a person than a terminal needs."""
_SHOWN_IN_SECTIONS: Final = frozenset(("a generation", "a payment", "a user"))

_TYPES: Final = {
    "first": "uuid",
    "argument": "text",
    "argument_id": "uuid",
    "counted": "bigint",
    "id": "uuid",
    "key": "text",
    "limit": "bigint",
    "most": "bigint",
    "orders": "uuid[]",
}
_PARAMETER: Final = re.compile(r"(?<!:):([a-z_]+)")


@dataclass(frozen=True, slots=True)
class Total:
    """How many rows there are: ``number``, or more than that."""

    number: int
    is_more: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """The rows of one table: the first of ``total``. One row is shown as a record, several as a table."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    total: Total
    whole_records: bool


@dataclass(frozen=True, slots=True)
class Chapter:
    """Everything about one generation, payment or user. ``hops`` are the latest of ``hops_total``.

    ``newest_orders``: the user has more, and what belongs to orders is shown of so many; None: of all.
    """

    identification: Identification
    hops: tuple[Hop, ...]
    hops_total: Total
    newest_orders: int | None
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Dossier:
    """The answer to "what happened to this id?": a chapter for each subject that it belongs to, nearly always one."""

    argument: str
    chapters: tuple[Chapter, ...]
    all_rows: bool


@dataclass(slots=True)
class _Parameters:
    """The values that the queries may use."""

    id: UUID | None
    key: str
    argument: str
    argument_id: UUID | None
    first: UUID
    """The first message that may be about it."""
    most: int
    """Orders of a user."""
    counted: int
    limit: int
    """How many messages are counted."""
    orders: list[UUID] = field(default_factory=list)


async def read_dossier(engine: AsyncEngine, argument: str, all_rows: bool = False) -> Dossier:
    """Look in every schema for ``argument``, an id of the platform or of a provider, on one snapshot.

    ``all_rows``: up to MOST_ROWS a section, not the latest alone. Raises UnknownIdentity if there is no trace of the
    id, UnusableIdentity if it cannot be one.
    """
    asked = validated(argument)
    async with snapshot(engine) as connection:
        identifications = await identify(connection, asked)
        chapters = [await _read_chapter(connection, asked, one, all_rows) for one in identifications]
    known = tuple(one for one in chapters if one.identification.descriptions or one.hops or one.sections)
    if not known:
        raise UnknownIdentity(f"{asked} is unknown: no service knows it, and no message or finding mentions it")
    return Dossier(asked, known, all_rows)


async def _read_chapter(
    connection: AsyncConnection, argument: str, identification: Identification, all_rows: bool
) -> Chapter:
    subject = identification.subject
    first = FIRST_ID if subject.uuid is None else first_message_of(subject.uuid)
    most, counted, limit = (MOST_ROWS,) * 3 if all_rows else (NEWEST_ORDERS, COUNTED, ROWS_PER_SECTION)
    parameters = _Parameters(subject.uuid, subject.key, argument, uuid_of(argument), first, most, counted, counted + 1)
    orders = (await connection.execute(_typed(ORDERS[subject.kind]), asdict(parameters))).all()
    parameters.orders = [row.id for row in orders]
    is_cut = any(row.is_cut for row in orders)
    sections = [
        await _read_own_rows(connection, column, parameters, limit)
        for column in identification.columns
        if column.description not in _SHOWN_IN_SECTIONS
    ]
    for section_query in SECTION_QUERIES:
        where = section_query.where.get(subject.kind)
        if where is not None:
            sections.append(await _read_section(connection, section_query, where, parameters, limit))
    hops: list[Hop] = []
    if subject.uuid is not None:
        hops = await read_timeline(connection, subject.uuid, MOST_ROWS if all_rows else HOPS_SHOWN)
    total: int | None = await connection.scalar(_typed(HOPS), asdict(parameters))
    return Chapter(
        identification=identification,
        hops=tuple(hops),
        hops_total=_total(total or 0, counted),
        newest_orders=most if is_cut else None,
        sections=tuple(section for section in sections if section.rows),
    )


def _total(rows: int, counted: int) -> Total:
    """Of so many rows, of which one more than ``counted`` was asked for."""
    return Total(min(rows, counted), rows > counted)


async def _read_section(
    connection: AsyncConnection, section_query: SectionQuery, where: str, parameters: _Parameters, limit: int
) -> Section:
    query = section_query.query.replace("{where}", where)
    return await _read(connection, section_query.title, query, parameters, limit, section_query.whole_records)


async def _read_own_rows(connection: AsyncConnection, column: IdColumn, parameters: _Parameters, limit: int) -> Section:
    title = f"This id in {column.table}"
    return await _read(connection, title, own_rows(column), parameters, limit, whole_records=False)


async def _read(
    connection: AsyncConnection, title: str, query: str, parameters: _Parameters, limit: int, whole_records: bool
) -> Section:
    counted = f"SELECT * FROM ({query}) AS every LIMIT :counted + 1"  # noqa: S608 - constants
    result = await connection.execute(
        _typed(f"SELECT *, count(*) OVER () FROM ({counted}) AS part LIMIT {limit}"),  # noqa: S608
        asdict(parameters),
    )
    names = list(result.keys())[:-1]
    rows = result.all()
    shown = [place for place, name in enumerate(names) if name not in _OMITTED_COLUMNS]
    return Section(
        title=title,
        columns=tuple(names[place] for place in shown),
        rows=tuple(tuple(_readable(row[place]) for place in shown) for row in rows),
        total=_total(rows[0][-1] if rows else 0, parameters.counted),
        whole_records=whole_records,
    )


def _typed(query: str) -> TextClause:
    """Parameters with their types, which the database cannot always infer."""
    return text(_PARAMETER.sub(lambda match: f"CAST({match[0]} AS {_TYPES[match[1]]})", query))


def _readable(value: object) -> object:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
