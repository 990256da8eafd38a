"""Credit movements: what was requested of billing, each effect once."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from payments.domain.payment_state import Movement
from payments.domain.records import UnpostedMovement
from payments.tables import credit_movements


async def add_movements(
    connection: AsyncConnection, payment_id: UUID, identified: Sequence[tuple[UUID, Movement]]
) -> set[UUID]:
    """Write the credit movements that are new and return their ids: only those may be sent to billing."""
    if not identified:
        return set()
    rows = [
        {
            "movement_id": movement_id,
            "payment_id": payment_id,
            "kind": movement.kind,
            "reference": movement.reference,
            "amount_credits": movement.amount_credits,
        }
        for movement_id, movement in identified
    ]
    statement = insert(credit_movements).values(rows).on_conflict_do_nothing().returning(credit_movements.c.movement_id)
    return set((await connection.execute(statement)).scalars())


async def mark_posted(connection: AsyncConnection, movement_ids: Sequence[UUID]) -> dict[UUID, float]:
    """Billing's ledger has these movements. Returns how many seconds each took that was not marked before."""
    statement = (
        sa.update(credit_movements)
        .where(credit_movements.c.movement_id.in_(list(movement_ids)), credit_movements.c.posted_at.is_(None))
        .values(posted_at=sa.func.now())
        .returning(
            credit_movements.c.movement_id,
            sa.extract("epoch", sa.func.now() - credit_movements.c.ordered_at).label("seconds"),
        )
    )
    return {row.movement_id: float(row.seconds) for row in await connection.execute(statement)}


async def find_unposted(connection: AsyncConnection, older_than: timedelta) -> list[UnpostedMovement]:
    """Credit movements that billing has not confirmed in a time in which it should have."""
    statement = sa.select(credit_movements).where(
        credit_movements.c.posted_at.is_(None), credit_movements.c.ordered_at < sa.func.now() - older_than
    )
    return [
        UnpostedMovement(
            movement_id=row.movement_id,
            payment_id=row.payment_id,
            kind=row.kind,
            amount_credits=row.amount_credits,
            requested_at=row.ordered_at,
        )
        for row in await connection.execute(statement)
    ]


async def lock_unposted(connection: AsyncConnection, movement_id: UUID) -> bool:
    """Keep billing's confirmation of a movement waiting. False if it has come."""
    statement = sa.select(credit_movements.c.movement_id).where(
        credit_movements.c.movement_id == movement_id, credit_movements.c.posted_at.is_(None)
    )
    return (await connection.execute(statement.with_for_update())).one_or_none() is not None
