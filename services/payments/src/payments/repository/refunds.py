"""Money that goes back: refunds and disputes."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from payments.domain import ProviderDispute, ProviderRefund
from payments.tables import (
    disputes,
    refunds,
)


async def put_refunds(
    connection: AsyncConnection, payment_id: UUID, provider: str, found: Sequence[ProviderRefund]
) -> None:
    """Mirror the provider's refunds; those that we did not order are the dashboard's."""
    if not found:
        return
    for refund in found:
        if refund.refund_id is not None:
            await confirm_refund(connection, refund.refund_id, refund.reference)
    rows = [
        {
            "refund_id": sa.func.gen_random_uuid(),
            "payment_id": payment_id,
            "provider": provider,
            "provider_reference": refund.reference,
            "amount_cents": refund.amount_cents,
            "state": refund.state,
            "actor": provider,
        }
        for refund in found
    ]
    statement = insert(refunds).values(rows)
    statement = statement.on_conflict_do_update(
        index_elements=["provider", "provider_reference"],
        set_={"state": statement.excluded.state, "updated_at": sa.func.now()},
        where=refunds.c.state != statement.excluded.state,
    )
    await connection.execute(statement)


async def put_disputes(
    connection: AsyncConnection, payment_id: UUID, provider: str, found: Sequence[ProviderDispute]
) -> None:
    """Mirror the provider's disputes."""
    if not found:
        return
    rows = [
        {
            "provider": provider,
            "provider_reference": dispute.reference,
            "payment_id": payment_id,
            "amount_cents": dispute.amount_cents,
            "state": dispute.state,
        }
        for dispute in found
    ]
    statement = insert(disputes).values(rows)
    statement = statement.on_conflict_do_update(
        index_elements=["provider", "provider_reference"],
        set_={"state": statement.excluded.state, "updated_at": sa.func.now()},
        where=disputes.c.state != statement.excluded.state,
    )
    await connection.execute(statement)


async def find_refund(connection: AsyncConnection, refund_id: UUID) -> sa.Row[Any] | None:
    """One refund without a lock."""
    return (await connection.execute(sa.select(refunds).where(refunds.c.refund_id == refund_id))).one_or_none()


async def add_refund(connection: AsyncConnection, values: dict[str, Any]) -> None:
    """Write down that a refund is wanted, or was made by hand."""
    await connection.execute(insert(refunds).values(**values))


async def live_refund_cents(connection: AsyncConnection, payment_id: UUID) -> int:
    """Cents of a payment that are refunded, on their way back, or ordered to be."""
    statement = sa.select(sa.func.coalesce(sa.func.sum(refunds.c.amount_cents), 0)).where(
        refunds.c.payment_id == payment_id, refunds.c.state != "failed"
    )
    return int((await connection.execute(statement)).scalar_one())


async def manual_refunds(connection: AsyncConnection, payment_id: UUID) -> list[ProviderRefund]:
    """Refunds that an operator paid out by hand: no provider knows of them."""
    statement = sa.select(refunds.c.provider_reference, refunds.c.amount_cents, refunds.c.state).where(
        refunds.c.payment_id == payment_id, refunds.c.provider_reference.startswith("manual:")
    )
    return [ProviderRefund(*row) for row in await connection.execute(statement)]


async def claim_refunds(connection: AsyncConnection, provider: str, limit: int, lease: timedelta) -> list[sa.Row[Any]]:
    """Ordered refunds that the provider has not confirmed, postponed by ``lease``; sending one twice refunds once."""
    due = (
        sa.select(refunds.c.refund_id)
        .where(
            refunds.c.provider == provider,
            refunds.c.state == sa.literal_column("'requested'"),
            refunds.c.next_try_at <= sa.func.now(),
        )
        .order_by(refunds.c.next_try_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        sa.update(refunds)
        .where(refunds.c.refund_id.in_(due.scalar_subquery()))
        .values(next_try_at=sa.func.now() + lease, tries=refunds.c.tries + 1)
        .returning(*refunds.c)
    )
    return list(await connection.execute(statement))


async def confirm_refund(connection: AsyncConnection, refund_id: UUID, reference: str) -> None:
    """The provider took the order. A mirror row without our id gives way to ours; known already, nothing changes."""
    mirror = sa.delete(refunds).where(refunds.c.provider_reference == reference, refunds.c.refund_id != refund_id)
    await connection.execute(mirror)
    statement = (
        sa.update(refunds)
        .where(refunds.c.refund_id == refund_id, refunds.c.provider_reference.is_(None))
        .values(provider_reference=reference, state="pending", next_try_at=None, updated_at=sa.func.now())
    )
    await connection.execute(statement)


async def fail_refund(connection: AsyncConnection, refund_id: UUID) -> None:
    """The provider will not make this refund."""
    statement = (
        sa.update(refunds)
        .where(refunds.c.refund_id == refund_id)
        .values(state="failed", next_try_at=None, updated_at=sa.func.now())
    )
    await connection.execute(statement)
