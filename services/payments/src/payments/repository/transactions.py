"""Payments: created, claimed under a lease, looked up, changed behind a fence."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.payments import Payment, PaymentStatus
from payments.domain import Movement, Standing
from payments.errors import UnknownPayment
from payments.providers.interface import Order
from payments.tables import (
    credit_movements,
    payment_transactions,
    reviews,
)

OPEN_STATUSES = ("created", "pending")


@dataclass(frozen=True)
class Claim:
    """A payment that this worker may look up until its lease ends; writing later is refused by the fence."""

    row: sa.Row[Any]
    fence: int

    @property
    def order(self) -> Order:
        """The payment as its provider needs it."""
        row = self.row
        return Order(
            payment_id=row.payment_id,
            user_id=row.user_id,
            title=f"{row.credits + row.bonus_credits} credits",
            price_cents=row.price_cents,
            currency=row.currency,
            created_at=row.created_at,
            expires_at=row.expires_at,
            provider_reference=row.provider_reference,
            charge_reference=row.charge_reference,
            tries=row.looks,
        )


async def lock_payers(connection: AsyncConnection, user_ids: Sequence[UUID]) -> None:
    """Take these users' creations in turn, so that counting their open payments and adding one cannot interleave.

    Sorted, for two batches may hold the same users in another order.
    """
    for user_id in sorted(set(user_ids)):
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(str(user_id), 0))))


async def count_open(connection: AsyncConnection, user_id: UUID) -> int:
    """How many payments of the user wait for money."""
    # In the text, so that the index of open payments is seen to match.
    is_open: list[sa.ColumnElement[str]] = [sa.literal_column(f"'{status}'") for status in sorted(OPEN_STATUSES)]
    statement = sa.select(sa.func.count()).where(
        payment_transactions.c.user_id == user_id, payment_transactions.c.status.in_(is_open)
    )
    return int((await connection.execute(statement)).scalar_one())


async def add_payment(connection: AsyncConnection, values: dict[str, Any], lifetime: timedelta) -> sa.Row[Any] | None:
    """Insert a payment by the database's clock; None if it exists already."""
    statement = (
        insert(payment_transactions)
        .values(
            **values,
            status="created",
            created_at=sa.func.now(),
            expires_at=sa.func.now() + lifetime,
            next_look_at=sa.func.now(),
        )
        .on_conflict_do_nothing(index_elements=["payment_id"])
        .returning(*payment_transactions.c)
    )
    return (await connection.execute(statement)).one_or_none()


async def claim_due(connection: AsyncConnection, provider: str, limit: int, lease: timedelta) -> list[Claim]:
    """Lease a provider's payments whose time to be looked at has come, longest overdue first."""
    due = (
        sa.select(payment_transactions.c.payment_id)
        .where(
            payment_transactions.c.provider == provider,
            payment_transactions.c.next_look_at <= sa.func.now(),
            sa.or_(
                payment_transactions.c.leased_until.is_(None),
                payment_transactions.c.leased_until < sa.func.now(),
            ),
        )
        .order_by(payment_transactions.c.next_look_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        sa.update(payment_transactions)
        .where(payment_transactions.c.payment_id.in_(due.scalar_subquery()))
        .values(
            leased_until=sa.func.now() + lease,
            fence=payment_transactions.c.fence + 1,
            looks=payment_transactions.c.looks + 1,
        )
        .returning(*payment_transactions.c)
    )
    return [Claim(row, row.fence) for row in await connection.execute(statement)]


async def lock_claimed(connection: AsyncConnection, claim: Claim) -> sa.Row[Any] | None:
    """The payment under its row lock, or None if another worker has claimed it since."""
    statement = (
        sa.select(payment_transactions)
        .where(
            payment_transactions.c.payment_id == claim.row.payment_id,
            payment_transactions.c.fence == claim.fence,
        )
        .with_for_update()
    )
    return (await connection.execute(statement)).one_or_none()


async def lock_payment(connection: AsyncConnection, payment_id: UUID) -> sa.Row[Any]:
    """The payment under its row lock. Raises ``UnknownPayment``."""
    statement = sa.select(payment_transactions).where(payment_transactions.c.payment_id == payment_id).with_for_update()
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise UnknownPayment(str(payment_id))
    return row


async def find_payment(connection: AsyncConnection, payment_id: UUID) -> sa.Row[Any] | None:
    """The payment without a lock."""
    statement = sa.select(payment_transactions).where(payment_transactions.c.payment_id == payment_id)
    return (await connection.execute(statement)).one_or_none()


async def get_standing(connection: AsyncConnection, row: sa.Row[Any]) -> Standing:
    """What we hold true of a locked payment, for the domain to decide on."""
    statement = sa.select(
        credit_movements.c.kind, credit_movements.c.reference, credit_movements.c.amount_credits
    ).where(credit_movements.c.payment_id == row.payment_id)
    movements = tuple(Movement(*found) for found in await connection.execute(statement))
    decisions = sa.select(reviews.c.code, reviews.c.found).where(
        reviews.c.payment_id == row.payment_id, reviews.c.resolution.in_(("credited", "dismissed"))
    )
    decided = frozenset((found.code, found.found) for found in await connection.execute(decisions))
    return Standing(
        payment_id=row.payment_id,
        status=row.status,
        price_cents=row.price_cents,
        currency=row.currency,
        credits=row.credits,
        bonus_credits=row.bonus_credits,
        refunded_cents=row.refunded_cents,
        movements=movements,
        resolution=row.resolution,
        decided=decided,
    )


async def change_payment(connection: AsyncConnection, payment_id: UUID, **values: Any) -> sa.Row[Any]:
    """Write a new state of a locked payment, one version higher."""
    statement = (
        sa.update(payment_transactions)
        .where(payment_transactions.c.payment_id == payment_id)
        .values(version=payment_transactions.c.version + 1, **values)
        .returning(*payment_transactions.c)
    )
    return (await connection.execute(statement)).one()


async def schedule_look(connection: AsyncConnection, claim: Claim, delay: timedelta | None) -> None:
    """Give the lease back and name the next look; a hint that came meanwhile makes it due at once."""
    planned = sa.null() if delay is None else sa.func.now() + delay
    statement = (
        sa.update(payment_transactions)
        .where(
            payment_transactions.c.payment_id == claim.row.payment_id,
            payment_transactions.c.fence == claim.fence,
        )
        .values(
            leased_until=None,
            next_look_at=sa.case((payment_transactions.c.hints != claim.row.hints, sa.func.now()), else_=planned),
        )
    )
    await connection.execute(statement)


async def hint_payments(connection: AsyncConnection, payment_ids: Sequence[UUID]) -> None:
    """Somebody said that something changed: look now, or again if a look is under way."""
    statement = (
        sa.update(payment_transactions)
        .where(payment_transactions.c.payment_id.in_(sorted(set(payment_ids))))
        .values(hints=payment_transactions.c.hints + 1, next_look_at=sa.func.now())
    )
    await connection.execute(statement)


def payment_of(row: sa.Row[Any]) -> Payment:
    """The payment as it is announced."""
    status: PaymentStatus = row.status
    return Payment(
        payment_id=row.payment_id,
        user_id=row.user_id,
        version=row.version,
        provider=row.provider,
        status=status,
        pack_id=row.pack_id,
        price_cents=row.price_cents,
        currency=row.currency,
        credits=row.credits,
        bonus_credits=row.bonus_credits,
        refunded_cents=row.refunded_cents,
        checkout_url=row.checkout_url,
        detail=row.detail,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


async def settled_since(connection: AsyncConnection, provider: str, since: datetime) -> list[sa.Row[Any]]:
    """Payments that we hold to be paid at a provider since then."""
    statement = sa.select(payment_transactions.c.payment_id, payment_transactions.c.status).where(
        payment_transactions.c.provider == provider,
        payment_transactions.c.settled_at.is_not(None),
        payment_transactions.c.created_at >= since,
    )
    return list(await connection.execute(statement))
