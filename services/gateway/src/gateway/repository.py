"""The SQL of what users ask for: requests, allowances, uploads."""

from datetime import datetime
from typing import Any
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


async def get_now(connection: AsyncConnection) -> datetime:
    """The database's clock."""
    now: datetime = (await connection.execute(sa.select(sa.func.now()))).scalar_one()
    return now


async def add_request(connection: AsyncConnection, table: sa.Table, values: dict[str, Any]) -> sa.Row[Any] | None:
    """Claim an idempotency key of a user; None if it was new, else the request that holds it.

    Of concurrent requests with one key all but one wait here for the first to commit, and then find its row.
    """
    fresh = insert(table).values(**values).on_conflict_do_nothing(index_elements=["user_id", "idempotency_key"])
    key = next(iter(table.primary_key.columns))
    if (await connection.execute(fresh.returning(key))).one_or_none() is not None:
        return None
    held = await find_request(connection, table, values["user_id"], values["idempotency_key"])
    assert held is not None, "requests are never deleted"
    return held


async def take_allowance(connection: AsyncConnection, user_id: UUID, per_minute: int) -> bool:
    """Take one token of the user's bucket, which refills evenly; False if it is empty."""
    bucket = write_allowances.c
    elapsed = sa.func.extract("epoch", sa.func.now() - bucket.counted_at)
    refilled = sa.func.least(float(per_minute), bucket.tokens + elapsed * (per_minute / 60.0))
    statement = insert(write_allowances).values(user_id=user_id, tokens=per_minute - 1.0, counted_at=sa.func.now())
    statement = statement.on_conflict_do_update(
        index_elements=["user_id"], set_={"tokens": refilled - 1.0, "counted_at": sa.func.now()}, where=refilled >= 1.0
    )
    taken = await connection.execute(statement.returning(bucket.user_id))
    return taken.one_or_none() is not None


async def count_open_generations(connection: AsyncConnection, user_id: UUID) -> int:
    """How many generations of the user are under way."""
    statement = sa.select(sa.func.count()).where(
        generations.c.user_id == user_id, generations.c.status.not_in(sorted(TERMINAL))
    )
    return int((await connection.execute(statement)).scalar_one())


async def count_uploads(connection: AsyncConnection, user_id: UUID, upload_ids: list[UUID]) -> int:
    """How many of these uploads are the user's own."""
    statement = sa.select(sa.func.count()).where(uploads.c.user_id == user_id, uploads.c.upload_id.in_(upload_ids))
    return int((await connection.execute(statement)).scalar_one())


async def add_generation(connection: AsyncConnection, order: GenerationOrder) -> None:
    """The read model's row of a new order; everything later only updates it."""
    await connection.execute(
        sa.insert(generations).values(
            generation_id=order.generation_id,
            user_id=order.user_id,
            status="requested",
            model_id=order.model_id,
            kind=order.kind,
            parameters=order.parameters,
            price_credits=order.price_credits,
            lane=order.lane,
            requested_at=order.requested_at,
            expires_at=order.expires_at,
        )
    )


async def add_payment(connection: AsyncConnection, values: dict[str, Any]) -> None:
    """The read model's row of a new payment."""
    await connection.execute(sa.insert(payments).values(**values, status="created", created_at=sa.func.now()))


async def add_upload(connection: AsyncConnection, values: dict[str, Any]) -> None:
    """Remember that a user may upload this."""
    await connection.execute(sa.insert(uploads).values(**values))


async def find_request(connection: AsyncConnection, table: sa.Table, user_id: UUID, key: str) -> sa.Row[Any] | None:
    """The request that holds this idempotency key of a user, with billing's verdict or the refusal, if there is one."""
    statement = sa.select(table).where(table.c.user_id == user_id, table.c.idempotency_key == key)
    return (await connection.execute(statement)).one_or_none()
