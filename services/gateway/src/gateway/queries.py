"""Reads for the API. The owner stands in every query: another user's row is not found, it is not hidden."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.domain import Cursor
from gateway.tables import activity, activity_heads, balances, generations, ledger_lines, payments
from messaging.database import single_statements


@dataclass(frozen=True)
class GenerationFilter:
    """Which generations to list; None means all."""

    status: str | None = None
    kind: str | None = None
    model_id: str | None = None
    requested_from: datetime | None = None
    requested_to: datetime | None = None


_FIND_GENERATION: Final = sa.select(generations).where(
    generations.c.generation_id == sa.bindparam("id"), generations.c.user_id == sa.bindparam("user")
)


async def list_generations(
    engine: AsyncEngine, user_id: UUID, wanted: GenerationFilter, after: Cursor | None, limit: int
) -> list[sa.Row[Any]]:
    """Newest first, from the end of the page before."""
    columns = generations.c
    statement = sa.select(generations).where(columns.user_id == user_id)
    for column, value in (
        (columns.status, wanted.status),
        (columns.kind, wanted.kind),
        (columns.model_id, wanted.model_id),
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
    return await _rows(engine, statement)


async def find_generation(engine: AsyncEngine, user_id: UUID, generation_id: UUID) -> sa.Row[Any] | None:
    """One generation of this user."""
    return await _first(engine, _FIND_GENERATION, {"id": generation_id, "user": user_id})


async def list_payments(engine: AsyncEngine, user_id: UUID, after: Cursor | None, limit: int) -> list[sa.Row[Any]]:
    """Newest first, from the end of the page before."""
    statement = sa.select(payments).where(payments.c.user_id == user_id)
    if after is not None:
        statement = statement.where(_before(after, payments.c.created_at, payments.c.payment_id))
    return await _rows(
        engine, statement.order_by(payments.c.created_at.desc(), payments.c.payment_id.desc()).limit(limit)
    )


async def find_payment(engine: AsyncEngine, user_id: UUID, payment_id: UUID) -> sa.Row[Any] | None:
    """One payment of this user."""
    statement = sa.select(payments).where(payments.c.payment_id == payment_id, payments.c.user_id == user_id)
    return await _first(engine, statement)


async def list_timeline(engine: AsyncEngine, user_id: UUID, subject_id: UUID) -> list[sa.Row[Any]]:
    """What happened to one generation or payment of this user, in order."""
    statement = (
        sa.select(activity)
        .where(activity.c.subject_id == subject_id, activity.c.user_id == user_id)
        .order_by(activity.c.occurred_at, activity.c.sequence)
    )
    return await _rows(engine, statement)


async def find_balance(engine: AsyncEngine, user_id: UUID) -> tuple[sa.Row[Any] | None, int]:
    """The balance of a user, and the credits that were ever captured from them."""
    settled = (
        sa.select(sa.func.coalesce(-sa.func.sum(ledger_lines.c.reserved_delta_credits), 0))
        .where(ledger_lines.c.user_id == user_id, ledger_lines.c.reason == "capture")
        .scalar_subquery()
    )
    async with single_statements(engine) as connection:
        row = (await connection.execute(sa.select(balances).where(balances.c.user_id == user_id))).one_or_none()
        total = (await connection.execute(sa.select(settled))).scalar_one()
    return row, int(total)


async def list_lines(
    engine: AsyncEngine, user_id: UUID, before: int | None, limit: int, *, oldest_first: bool = False
) -> list[sa.Row[Any]]:
    """Statement lines, newest first from below ``before``; or oldest first from above it."""
    columns = ledger_lines.c
    statement = sa.select(ledger_lines).where(columns.user_id == user_id)
    if oldest_first:
        statement = statement.where(columns.line_number > (before or 0)).order_by(columns.line_number)
    else:
        if before is not None:
            statement = statement.where(columns.line_number < before)
        statement = statement.order_by(columns.line_number.desc())
    return await _rows(engine, statement.limit(limit))


async def last_sequence(engine: AsyncEngine, user_id: UUID) -> int:
    """The number of the newest entry in a user's history; 0 if there is none."""
    statement = sa.select(activity_heads.c.sequence).where(activity_heads.c.user_id == user_id)
    row = await _first(engine, statement)
    return 0 if row is None else int(row.sequence)


async def list_activity(engine: AsyncEngine, user_id: UUID, after: int, limit: int) -> list[sa.Row[Any]]:
    """A user's history from number ``after`` on, which it does not include."""
    statement = (
        sa.select(activity)
        .where(activity.c.user_id == user_id, activity.c.sequence > after)
        .order_by(activity.c.sequence)
        .limit(limit)
    )
    return await _rows(engine, statement)


def _before(cursor: Cursor, at: sa.Column[Any], row_id: sa.Column[Any]) -> sa.ColumnElement[bool]:
    """What comes after the cursor in a list that is newest first."""
    return sa.tuple_(at, row_id) < sa.tuple_(sa.literal(cursor.at), sa.literal(cursor.row_id))


async def _rows(engine: AsyncEngine, statement: sa.Select[Any]) -> list[sa.Row[Any]]:
    async with single_statements(engine) as connection:
        found: Sequence[sa.Row[Any]] = (await connection.execute(statement)).all()
    return list(found)


async def _first(
    engine: AsyncEngine, statement: sa.Select[Any], values: dict[str, Any] | None = None
) -> sa.Row[Any] | None:
    async with single_statements(engine) as connection:
        row: sa.Row[Any] | None = (await connection.execute(statement, values)).one_or_none()
    return row
