"""Credit movements: what was requested of billing, each effect once."""

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Posted:
    """Movements that are in billing's ledger now: the payments that have all of theirs, and how long each took."""

    payment_ids: list[UUID]
    seconds: list[float]


async def mark_posted(connection: AsyncConnection, movement_ids: Sequence[UUID]) -> Posted:
    """Billing's ledger has these movements. Those that were marked before are left out."""
    statement = (
        sa.update(credit_movements)
        .where(credit_movements.c.movement_id.in_(list(movement_ids)), credit_movements.c.posted_at.is_(None))
        .values(posted_at=sa.func.now())
        .returning(
            credit_movements.c.payment_id,
            sa.extract("epoch", sa.func.now() - credit_movements.c.ordered_at).label("seconds"),
        )
    )
    rows = (await connection.execute(statement)).all()
    payment_ids = {row.payment_id for row in rows}
    waiting = sa.select(credit_movements.c.payment_id).where(
        credit_movements.c.payment_id.in_(payment_ids), credit_movements.c.posted_at.is_(None)
    )
    complete = payment_ids - set((await connection.execute(waiting)).scalars()) if payment_ids else payment_ids
    return Posted(sorted(complete), [float(row.seconds) for row in rows])


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
