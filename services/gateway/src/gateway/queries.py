"""Reads for the API. Every query names the owner, so that another user's row is simply not found."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.values import Kind, LedgerLine, MediaProperties
from gateway.domain import Cursor
from gateway.records import (
    BalanceRecord,
    GenerationRecord,
    HistoryRecord,
    LedgerHeadRecord,
    PaymentRecord,
    StoredFile,
    StoredPreviews,
    UsageRecord,
    Variant,
    VariantRecord,
)
from gateway.statuses import GenerationStatus
from gateway.tables import activity, balances, generations, ledger_heads, ledger_lines, payments
from messaging.database import single_statements
from service_runtime.statements import Statement

_Row: TypeAlias = sa.Row[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class GenerationFilter:
    """Which generations to list; None means all."""

    status: GenerationStatus | None = None
    kind: Kind | None = None
    model_id: str | None = None
    requested_from: datetime | None = None
    requested_to: datetime | None = None
    variant_of: UUID | None = None

    @property
    def reads_history(self) -> bool:
        """Whether no index has what is wanted: then it is looked for in all that the user has."""
        return sum(value is not None for value in (self.status, self.kind, self.model_id)) > 1


_PAYMENT: Final = [payments.c[field.name] for field in fields(PaymentRecord)]
_HISTORY: Final = [activity.c[field.name] for field in fields(HistoryRecord)]
_VARIANT: Final[list[sa.ColumnElement[Any]]] = [
    generations.c.generation_id,
    generations.c.variant_of,
    generations.c.variant_number,
    generations.c.status,
    # What is to be captured, until billing says what was.
    sa.func.coalesce(generations.c.captured_credits, generations.c.charged_credits),
]
_HEAD: Final = [ledger_heads.c[field.name] for field in fields(LedgerHeadRecord)]
_LINE: Final = [ledger_lines.c[name] for name in LedgerLine.__struct_fields__]

_FIND_GENERATION: Final = Statement(
    f"SELECT {', '.join(generations.c.keys())} FROM gateway.generations WHERE generation_id = :id AND user_id = :user"  # noqa: S608
)
# Every open event stream reads these whenever its user's history grows.
_LAST_SEQUENCE: Final = Statement("SELECT sequence FROM gateway.activity_heads WHERE user_id = :user")
_LIST_HISTORY: Final = Statement(f"""
    SELECT {", ".join(column.name for column in _HISTORY)} FROM gateway.activity
    WHERE user_id = :user AND sequence > :after ORDER BY sequence LIMIT :limit
""")  # noqa: S608 - names of columns

# Unmarked files can be alike.
_FIND_DELIVERED: Final = sa.select(generations.c.kind).where(generations.c.sha256 == sa.bindparam("sha256")).limit(1)

# The owner is no way to the entries: the history of a user may be long.
_TIMELINE: Final = sa.text("""
    SELECT sequence, event, name, data, occurred_at FROM gateway.activity
    WHERE subject_id = :subject_id AND (user_id = :user_id) IS TRUE
    UNION ALL
    SELECT CAST(entry ->> 0 AS bigint), 'generation.updated', entry ->> 2,
           entry -> 3 || jsonb_build_object('generation_id', generation_id, 'name', entry ->> 2),
           timestamptz 'epoch' + CAST(entry ->> 1 AS bigint) * interval '1 microsecond'
    FROM gateway.archived_timelines CROSS JOIN LATERAL jsonb_array_elements(entries) AS entry
    WHERE generation_id = :subject_id AND user_id = :user_id
    ORDER BY occurred_at, sequence
""").columns(*_HISTORY)

REMEMBERED_LINES: Final = 100
"""So many lines more, and what they add up to is remembered."""
_SETTLED: Final = sa.text("""
    SELECT known.through_line, line.lines, line.last_line, known.settled_credits + line.captured AS total
    FROM (
        SELECT coalesce(max(through_line), 0) AS through_line, coalesce(max(settled_credits), 0) AS settled_credits
        FROM gateway.settled_credits WHERE user_id = :user_id
    ) AS known
    CROSS JOIN LATERAL (
        SELECT count(*) AS lines, coalesce(max(line_number), 0) AS last_line,
               coalesce(-sum(reserved_delta_credits) FILTER (WHERE reason = 'capture'), 0) AS captured
        FROM gateway.ledger_lines WHERE user_id = :user_id AND line_number > known.through_line
    ) AS line
""")
_REMEMBER_SETTLED: Final = sa.text("""
    INSERT INTO gateway.settled_credits AS s (user_id, through_line, settled_credits)
    VALUES (:user_id, :through_line, :settled_credits)
    ON CONFLICT (user_id) DO UPDATE
    SET through_line = excluded.through_line, settled_credits = excluded.settled_credits
    WHERE s.through_line < excluded.through_line
""")


async def list_generations(
    engine: AsyncEngine, user_id: UUID, wanted: GenerationFilter, after: Cursor | None, limit: int
) -> list[GenerationRecord]:
    """Newest first, from the end of the page before, without those that were deleted."""
    columns = generations.c
    statement = sa.select(generations).where(columns.user_id == user_id, columns.deleted_at.is_(None))
    for column, value in (
        (columns.status, wanted.status),
        (columns.kind, wanted.kind),
        (columns.model_id, wanted.model_id),
        (columns.variant_of, wanted.variant_of),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if wanted.requested_from is not None:
        statement = statement.where(columns.requested_at >= wanted.requested_from)
    if wanted.requested_to is not None:
        statement = statement.where(columns.requested_at < wanted.requested_to)
    if after is not None:
        statement = statement.where(_before(after, columns.requested_at, columns.generation_id))
    statement = statement.order_by(columns.requested_at.desc(), columns.generation_id.desc()).limit(limit)
    return [_generation(dict(row._mapping)) for row in await _rows(engine, statement)]


async def find_generation(engine: AsyncEngine, user_id: UUID, generation_id: UUID) -> GenerationRecord | None:
    """One generation of this user, deleted or not."""
    async with single_statements(engine) as connection:
        row = await _FIND_GENERATION.fetch_one(connection, {"id": generation_id, "user": user_id})
    return None if row is None else _generation(row)


async def list_variants(
    engine: AsyncEngine, user_id: UUID, order_ids: Collection[UUID]
) -> dict[UUID, list[VariantRecord]]:
    """The variants of each of these orders of this user, in their order, deleted ones included."""
    found: dict[UUID, list[VariantRecord]] = {}
    if order_ids:
        columns = generations.c
        statement = (
            sa.select(*_VARIANT, columns.deleted_at.is_not(None))
            .where(columns.variant_of.in_(order_ids), columns.user_id == user_id)
            .order_by(columns.variant_of, columns.variant_number)
        )
        for row in await _rows(engine, statement):
            variant = VariantRecord(*row)
            found.setdefault(variant.order_id, []).append(variant)
    return found


async def list_payments(engine: AsyncEngine, user_id: UUID, after: Cursor | None, limit: int) -> list[PaymentRecord]:
    """Newest first, from the end of the page before."""
    statement = sa.select(*_PAYMENT).where(payments.c.user_id == user_id)
    if after is not None:
        statement = statement.where(_before(after, payments.c.created_at, payments.c.payment_id))
    statement = statement.order_by(payments.c.created_at.desc(), payments.c.payment_id.desc()).limit(limit)
    return [PaymentRecord(*row) for row in await _rows(engine, statement)]


async def find_delivered_kind(engine: AsyncEngine, sha256: str) -> Kind | None:
    """What a delivered file with this checksum is, whoever ordered it; None if there is none."""
    row = await _first(engine, _FIND_DELIVERED, {"sha256": sha256})
    return None if row is None else row.kind


async def find_payment(engine: AsyncEngine, user_id: UUID, payment_id: UUID) -> PaymentRecord | None:
    """One payment of this user."""
    statement = sa.select(*_PAYMENT).where(payments.c.payment_id == payment_id, payments.c.user_id == user_id)
    row = await _first(engine, statement)
    return None if row is None else PaymentRecord(*row)


async def list_timeline(engine: AsyncEngine, user_id: UUID, subject_id: UUID) -> list[HistoryRecord]:
    """What happened to one generation or payment of this user, in order, archived or not."""
    async with single_statements(engine) as connection:
        rows = await connection.execute(_TIMELINE, {"user_id": user_id, "subject_id": subject_id})
        return [HistoryRecord(*row) for row in rows]


async def find_balance(engine: AsyncEngine, user_id: UUID) -> tuple[BalanceRecord | None, int]:
    """The balance of a user, and the credits that were ever captured from them.

    Lines are added up once: now and then the sum is remembered, up to a line below which none is missing.
    """
    columns = [balances.c[field.name] for field in fields(BalanceRecord)]
    async with single_statements(engine) as connection:
        row = (await connection.execute(sa.select(*columns).where(balances.c.user_id == user_id))).one_or_none()
        settled = (await connection.execute(_SETTLED, {"user_id": user_id})).one()
        is_gapless = settled.last_line - settled.through_line == settled.lines
        if settled.lines >= REMEMBERED_LINES and is_gapless:
            values = {"user_id": user_id, "through_line": settled.last_line, "settled_credits": int(settled.total)}
            await connection.execute(_REMEMBER_SETTLED, values)
    return None if row is None else BalanceRecord(*row), int(settled.total)


async def list_usage(engine: AsyncEngine, user_id: UUID, day_from: date, day_to: date) -> list[UsageRecord]:
    """Orders and their cost by day and model, newest first, of these days and those between."""
    columns = generations.c
    day = sa.cast(sa.func.timezone("UTC", columns.requested_at), sa.Date).label("day")
    cost = sa.func.coalesce(columns.captured_credits, columns.charged_credits, 0)
    statement = (
        sa.select(
            day,
            columns.model_id,
            columns.kind,
            sa.func.count(),
            sa.func.count().filter(columns.status == "completed"),
            sa.cast(sa.func.sum(cost), sa.BigInteger),
        )
        .where(
            columns.user_id == user_id,
            columns.requested_at >= _start_of(day_from),
            columns.requested_at < _start_of(day_to) + timedelta(days=1),
            columns.status != "refused",
        )
        .group_by(day, columns.model_id, columns.kind)
        .order_by(day.desc(), columns.model_id)
    )
    return [UsageRecord(*row) for row in await _rows(engine, statement)]


def _start_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


async def list_lines(
    engine: AsyncEngine, user_id: UUID, before: int | None, limit: int, *, oldest_first: bool = False
) -> list[LedgerLine]:
    """Statement lines, newest first from below ``before``; or oldest first from above it."""
    columns = ledger_lines.c
    statement = sa.select(*_LINE).where(columns.user_id == user_id)
    if oldest_first:
        statement = statement.where(columns.line_number > (before or 0)).order_by(columns.line_number)
    else:
        if before is not None:
            statement = statement.where(columns.line_number < before)
        statement = statement.order_by(columns.line_number.desc())
    rows = await _rows(engine, statement.limit(limit))
    return [LedgerLine(**row._mapping) for row in rows]


async def find_line(engine: AsyncEngine, user_id: UUID, line_number: int) -> LedgerLine | None:
    """One statement line of this user."""
    columns = ledger_lines.c
    of_number = sa.select(*_LINE).where(columns.user_id == user_id, columns.line_number == line_number)
    row = await _first(engine, of_number)
    return None if row is None else LedgerLine(**row._mapping)


async def list_heads(engine: AsyncEngine, before: int | None, limit: int) -> list[LedgerHeadRecord]:
    """The published heads of the ledger, newest first from below ``before``."""
    newest = sa.select(*_HEAD).order_by(ledger_heads.c.tree_size.desc()).limit(limit)
    if before is not None:
        newest = newest.where(ledger_heads.c.tree_size < before)
    return [LedgerHeadRecord(*row) for row in await _rows(engine, newest)]


async def find_newest_head(engine: AsyncEngine) -> LedgerHeadRecord | None:
    """The published head of the longest ledger."""
    heads = await list_heads(engine, None, 1)
    return heads[0] if heads else None


async def find_head(engine: AsyncEngine, tree_size: int) -> LedgerHeadRecord | None:
    """The published head of this size."""
    row = await _first(engine, sa.select(*_HEAD).where(ledger_heads.c.tree_size == tree_size))
    return None if row is None else LedgerHeadRecord(*row)


async def last_sequence(engine: AsyncEngine, user_id: UUID) -> int:
    """The number of the newest entry in a user's history; 0 if there is none."""
    async with single_statements(engine) as connection:
        row = await _LAST_SEQUENCE.fetch_one(connection, {"user": user_id})
    return 0 if row is None else int(row["sequence"])


async def list_history(engine: AsyncEngine, user_id: UUID, after: int, limit: int) -> list[HistoryRecord]:
    """A user's history after entry number ``after``."""
    values = {"user": user_id, "after": after, "limit": limit}
    async with single_statements(engine) as connection:
        return [HistoryRecord(*row) for row in await _LIST_HISTORY.fetch(connection, values)]


def _generation(row: Mapping[str, Any]) -> GenerationRecord:
    return GenerationRecord(
        generation_id=row["generation_id"],
        status=row["status"],
        model_id=row["model_id"],
        kind=row["kind"],
        parameters=row["parameters"],
        price_credits=row["price_credits"],
        captured_credits=row["charged_credits"] if row["captured_credits"] is None else row["captured_credits"],
        attempt_number=row["attempt_number"],
        late=row["late"],
        failure_code=row["failure_code"],
        failure_detail=row["failure_detail"],
        file=_file(row),
        previews=_previews(row),
        requested_at=row["requested_at"],
        expires_at=row["expires_at"],
        start_before_at=row["start_before_at"],
        completed_at=row["completed_at"],
        deleted_at=row["deleted_at"],
        variant=None
        if row["variant_of"] is None
        else Variant(row["variant_of"], row["variant_number"], row["variant_count"]),
    )


def _file(row: Mapping[str, Any]) -> StoredFile | None:
    if row["object_key"] is None:
        return None
    return StoredFile(
        object_key=row["object_key"],
        poster_object_key=row["poster_object_key"],
        size_bytes=row["size_bytes"],
        sha256=row["sha256"],
        media=msgspec.convert(row["media"], MediaProperties),
    )


def _previews(row: Mapping[str, Any]) -> StoredPreviews:
    return StoredPreviews() if row["previews"] is None else msgspec.convert(row["previews"], StoredPreviews)


def _before(cursor: Cursor, at: sa.Column[Any], row_id: sa.Column[Any]) -> sa.ColumnElement[bool]:
    """The rows after the cursor in a list that is newest first."""
    return sa.tuple_(at, row_id) < sa.tuple_(sa.literal(cursor.at), sa.literal(cursor.row_id))


async def _rows(engine: AsyncEngine, statement: sa.Select[Any]) -> Sequence[_Row]:
    async with single_statements(engine) as connection:
        rows: Sequence[_Row] = (await connection.execute(statement)).all()
    return rows


async def _first(engine: AsyncEngine, statement: sa.Select[Any], values: dict[str, Any] | None = None) -> _Row | None:
    async with single_statements(engine) as connection:
        row: _Row | None = (await connection.execute(statement, values)).one_or_none()
    return row
