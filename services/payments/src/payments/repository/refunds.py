"""Money that goes back: refunds and disputes."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.payments import Provider
from messaging.leases import BOUND_LEASE, Claim, any_of
from payments.domain.records import RefundRecord
from payments.domain.snapshots import ProviderDispute, ProviderRefund
from payments.repository.leases import REFUNDS, Claimed
from payments.tables import disputes, refunds

_DUE: Final = (
    sa.select(refunds.c.refund_id)
    .where(
        refunds.c.provider == sa.bindparam("of_provider"),
        # In the text, so that the planner matches the index of requested refunds.
        refunds.c.state == sa.literal_column("'requested'"),
        REFUNDS.due(),
    )
    .order_by(refunds.c.next_try_at)
    .limit(sa.bindparam("room"))
    .with_for_update(skip_locked=True)
)
_CLAIM_REFUNDS: Final = (
    sa.update(refunds)
    .where(any_of(refunds.c.refund_id, _DUE))
    .values(REFUNDS.claim_values(BOUND_LEASE))
    .returning(*refunds.c)
)


async def put_refunds(
    connection: AsyncConnection, payment_id: UUID, provider: Provider, found: Sequence[ProviderRefund]
) -> None:
    """Mirror the provider's refunds; those without a request of ours were made in its dashboard."""
    # One of less than half a cent takes nothing.
    found = [refund for refund in found if refund.amount_cents > 0]
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
    connection: AsyncConnection, payment_id: UUID, provider: Provider, found: Sequence[ProviderDispute]
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
        set_={
            "state": statement.excluded.state,
            "amount_cents": statement.excluded.amount_cents,
            "updated_at": sa.func.now(),
        },
        where=sa.tuple_(disputes.c.state, disputes.c.amount_cents)
        != sa.tuple_(statement.excluded.state, statement.excluded.amount_cents),
    )
    await connection.execute(statement)


async def find_refund(connection: AsyncConnection, refund_id: UUID) -> RefundRecord | None:
    """One refund without a lock."""
    row = (await connection.execute(sa.select(refunds).where(refunds.c.refund_id == refund_id))).one_or_none()
    return None if row is None else _record(row)


async def add_refund(connection: AsyncConnection, refund: RefundRecord) -> None:
    """Write down a refund that is requested, due at once, or one that was paid out by hand."""
    statement = insert(refunds).values(
        refund_id=refund.refund_id,
        payment_id=refund.payment_id,
        provider=refund.provider,
        provider_reference=refund.provider_reference,
        amount_cents=refund.amount_cents,
        state=refund.state,
        actor=refund.actor,
        note=refund.note,
        next_try_at=sa.func.now() if refund.state == "requested" else None,
    )
    await connection.execute(statement)


async def sum_live_refunds(connection: AsyncConnection, payment_id: UUID) -> int:
    """Cents of a payment that are refunded, on their way back, or requested."""
    statement = sa.select(sa.func.coalesce(sa.func.sum(refunds.c.amount_cents), 0)).where(
        refunds.c.payment_id == payment_id, refunds.c.state != "failed"
    )
    return int((await connection.execute(statement)).scalar_one())


async def find_shown_refunds(
    connection: AsyncConnection, payment_id: UUID, currency: str
) -> tuple[ProviderRefund, ...]:
    """The refunds of a payment as its provider showed them last, also those that it shows no more."""
    statement = sa.select(
        refunds.c.provider_reference, refunds.c.amount_cents, sa.literal(currency), refunds.c.state
    ).where(refunds.c.payment_id == payment_id, refunds.c.provider_reference.is_not(None))
    return tuple(ProviderRefund(*row) for row in await connection.execute(statement))


async def find_shown_disputes(
    connection: AsyncConnection, payment_id: UUID, currency: str
) -> tuple[ProviderDispute, ...]:
    """The disputes of a payment as its provider showed them last, also those that it shows no more."""
    statement = sa.select(
        disputes.c.provider_reference, disputes.c.amount_cents, sa.literal(currency), disputes.c.state
    ).where(disputes.c.payment_id == payment_id)
    return tuple(ProviderDispute(*row) for row in await connection.execute(statement))


async def find_manual_refunds(connection: AsyncConnection, payment_id: UUID, currency: str) -> list[ProviderRefund]:
    """Refunds that an operator paid out by hand: no provider knows of them. Their cents are of what had arrived."""
    statement = sa.select(
        refunds.c.provider_reference, refunds.c.amount_cents, sa.literal(currency), refunds.c.state
    ).where(refunds.c.payment_id == payment_id, refunds.c.provider_reference.startswith("manual:"))
    return [ProviderRefund(*row) for row in await connection.execute(statement)]


async def claim_refunds(
    connection: AsyncConnection, provider: Provider, room: int, lease: timedelta
) -> list[Claimed[RefundRecord]]:
    """Claim a provider's requested refunds that it has not confirmed, longest overdue first."""
    values = {"of_provider": provider, "room": room, "lease": lease}
    return [Claimed(REFUNDS.claim_of(row), _record(row)) for row in await connection.execute(_CLAIM_REFUNDS, values)]


async def record_sent(connection: AsyncConnection, claimed: Claimed[RefundRecord], reference: str) -> bool:
    """The provider has taken a request that was sent. False if another worker or a poll has recorded that before."""
    if not await REFUNDS.complete(connection, claimed.claim):
        return False
    await confirm_refund(connection, claimed.row.refund_id, reference)
    return True


async def confirm_refund(connection: AsyncConnection, refund_id: UUID, reference: str) -> None:
    """The provider shows a refund that carries our id. This ends the claim of a worker that is sending it.

    A mirror row without our id gives way to ours. A refund that is confirmed already does not change.
    """
    mirror = sa.delete(refunds).where(refunds.c.provider_reference == reference, refunds.c.refund_id != refund_id)
    await connection.execute(mirror)
    statement = (
        sa.update(refunds)
        .where(refunds.c.refund_id == refund_id, refunds.c.provider_reference.is_(None))
        .values(
            provider_reference=reference,
            state="pending",
            next_try_at=None,
            leased_until=None,
            updated_at=sa.func.now(),
        )
    )
    await connection.execute(statement)


async def fail_refund(connection: AsyncConnection, claim: Claim) -> bool:
    """The provider does not make this refund. False if another worker has claimed it since."""
    return await REFUNDS.complete(connection, claim, state="failed", updated_at=sa.func.now())


async def postpone_refund(connection: AsyncConnection, claim: Claim, delay: timedelta) -> None:
    """The provider gave no answer: the refund is sent again after ``delay``."""
    await REFUNDS.postpone(connection, claim, delay)


def _record(row: sa.Row[Any]) -> RefundRecord:
    return RefundRecord(
        refund_id=row.refund_id,
        payment_id=row.payment_id,
        provider=row.provider,
        provider_reference=row.provider_reference,
        amount_cents=row.amount_cents,
        state=row.state,
        actor=row.actor,
        note=row.note,
    )
