"""The SQL of what users ask for: requests, allowances, uploads.

What every order executes is put together once: building a statement costs as much as executing it.
"""

from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.values import GenerationOrder
from gateway.domain import TERMINAL
from gateway.tables import (
    generations,
    payments,
    uploads,
    write_allowances,
)

_bucket = write_allowances.c
_elapsed = sa.func.extract("epoch", sa.func.now() - _bucket.counted_at)
_per_minute = sa.bindparam("per_minute", type_=sa.Float)
_refilled = sa.func.least(_per_minute, _bucket.tokens + _elapsed * (_per_minute / 60.0))
_TAKE_ALLOWANCE: Final = (
    insert(write_allowances)
    .values(user_id=sa.bindparam("user"), tokens=_per_minute - 1.0, counted_at=sa.func.now())
    .on_conflict_do_update(
        index_elements=["user_id"],
        set_={"tokens": _refilled - 1.0, "counted_at": sa.func.now()},
        where=_refilled >= 1.0,
    )
    .returning(_bucket.user_id)
)
_LOCK_ALLOWANCE: Final = sa.select(_bucket.user_id).where(_bucket.user_id == sa.bindparam("user")).with_for_update()
# In the text, so that the index of open generations is seen to match.
_terminal: Final[list[sa.ColumnElement[str]]] = [sa.literal_column(f"'{status}'") for status in sorted(TERMINAL)]
_COUNT_OPEN: Final = sa.select(sa.func.count()).where(
    generations.c.user_id == sa.bindparam("user"), generations.c.status.not_in(_terminal)
)
_ADD_GENERATION: Final = sa.insert(generations)


@cache
def _add_request(table: sa.Table) -> sa.sql.dml.ReturningInsert[Any]:
    fresh = insert(table).on_conflict_do_nothing(index_elements=["user_id", "idempotency_key"])
    return fresh.returning(table.c.created_at)


@cache
def _find_request(table: sa.Table) -> sa.Select[Any]:
    return sa.select(table).where(
        table.c.user_id == sa.bindparam("user"), table.c.idempotency_key == sa.bindparam("key")
    )


async def get_now(connection: AsyncConnection) -> datetime:
    """The database's clock."""
    now: datetime = (await connection.execute(sa.select(sa.func.now()))).scalar_one()
    return now


async def add_request(connection: AsyncConnection, table: sa.Table, values: dict[str, Any]) -> datetime | sa.Row[Any]:
    """Claim an idempotency key of a user; since now, if it was new, else the request that holds it.

    Of concurrent requests with one key all but one wait here for the first to commit, and then find its row.
    """
    claimed_at: datetime | None = (await connection.execute(_add_request(table), values)).scalar_one_or_none()
    if claimed_at is not None:
        return claimed_at
    held = await find_request(connection, table, values["user_id"], values["idempotency_key"])
    assert held is not None, "requests are never deleted"
    return held


async def take_allowance(connection: AsyncConnection, user_id: UUID, per_minute: int) -> bool:
    """Take one token of the user's bucket, which refills evenly; False if it is empty."""
    taken = await connection.execute(_TAKE_ALLOWANCE, {"user": user_id, "per_minute": float(per_minute)})
    return taken.one_or_none() is not None


async def lock_allowance(connection: AsyncConnection, user_id: UUID) -> None:
    """Let one request of a user at a time decide on what the user has, until its transaction ends."""
    await connection.execute(_LOCK_ALLOWANCE, {"user": user_id})


async def count_open_generations(connection: AsyncConnection, user_id: UUID) -> int:
    """How many generations of the user are under way."""
    return int((await connection.execute(_COUNT_OPEN, {"user": user_id})).scalar_one())


async def count_uploads(connection: AsyncConnection, user_id: UUID, upload_ids: list[UUID]) -> int:
    """How many of these uploads are the user's own."""
    statement = sa.select(sa.func.count()).where(uploads.c.user_id == user_id, uploads.c.upload_id.in_(upload_ids))
    return int((await connection.execute(statement)).scalar_one())


async def add_generation(connection: AsyncConnection, order: GenerationOrder) -> None:
    """The read model's row of a new order; everything later only updates it."""
    row = {
        "generation_id": order.generation_id,
        "user_id": order.user_id,
        "status": "requested",
        "model_id": order.model_id,
        "kind": order.kind,
        "parameters": order.parameters,
        "price_credits": order.price_credits,
        "lane": order.lane,
        "requested_at": order.requested_at,
        "expires_at": order.expires_at,
    }
    await connection.execute(_ADD_GENERATION, row)


async def add_payment(connection: AsyncConnection, values: dict[str, Any]) -> None:
    """The read model's row of a new payment."""
    await connection.execute(sa.insert(payments).values(**values, status="created", created_at=sa.func.now()))


async def count_recent_uploads(connection: AsyncConnection, user_id: UUID) -> int:
    """How many uploads the user has begun in the last 24 hours."""
    recent = uploads.c.created_at > sa.func.now() - timedelta(days=1)
    statement = sa.select(sa.func.count()).where(uploads.c.user_id == user_id, recent)
    return int((await connection.execute(statement)).scalar_one())


async def add_upload(connection: AsyncConnection, values: dict[str, Any]) -> None:
    """Remember that a user may upload this."""
    await connection.execute(sa.insert(uploads).values(**values))


async def find_request(connection: AsyncConnection, table: sa.Table, user_id: UUID, key: str) -> sa.Row[Any] | None:
    """The request that holds this idempotency key of a user, with billing's verdict or the refusal, if there is one."""
    rows = await connection.execute(_find_request(table), {"user": user_id, "key": key})
    row: sa.Row[Any] | None = rows.one_or_none()
    return row
