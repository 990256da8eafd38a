"""Payments: created, claimed under a lease, looked up, changed behind a fence."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from catalogue.credit_packs import CreditPack
from contracts.payments import Provider
from messaging.leases import BOUND_LEASE, Claim, any_of
from payments.domain.payment_state import Movement, PaymentState
from payments.domain.polling import OPEN_STATUSES
from payments.domain.records import PaymentRecord, SettledPayment
from payments.errors import UnknownPayment
from payments.repository.leases import PAYMENTS, Claimed
from payments.repository.refunds import find_shown_disputes, find_shown_refunds
from payments.tables import credit_movements, payment_transactions, reviews

_COLUMNS: Final = payment_transactions.c


async def get_time(connection: AsyncConnection) -> datetime:
    """The database's clock, as it stood when this transaction began."""
    now: datetime = (await connection.execute(sa.select(sa.func.now()))).scalar_one()
    return now


async def lock_payers(connection: AsyncConnection, user_ids: Sequence[UUID]) -> None:
    """Take these users' creations in turn, so that counting their open payments and adding one cannot interleave.

    Sorted, because two batches may name the same users in different order.
    """
    for user_id in sorted(set(user_ids)):
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(str(user_id), 0))))


_DUE: Final = (
    sa.select(_COLUMNS.payment_id)
    .where(_COLUMNS.provider == sa.bindparam("of_provider"), PAYMENTS.due())
    .order_by(_COLUMNS.next_look_at)
    .limit(sa.bindparam("room"))
    .with_for_update(skip_locked=True)
)
_CLAIM_DUE: Final = (
    sa.update(payment_transactions)
    .where(any_of(_COLUMNS.payment_id, _DUE))
    .values(PAYMENTS.claim_values(BOUND_LEASE))
    .returning(*_COLUMNS)
)


async def count_open(connection: AsyncConnection, user_id: UUID) -> int:
    """How many payments of the user wait for money."""
    # In the text, so that the planner matches the index of open payments.
    is_open: list[sa.ColumnElement[str]] = [sa.literal_column(f"'{status}'") for status in sorted(OPEN_STATUSES)]
    statement = sa.select(sa.func.count()).where(_COLUMNS.user_id == user_id, _COLUMNS.status.in_(is_open))
    return int((await connection.execute(statement)).scalar_one())


async def add_payment(
    connection: AsyncConnection,
    *,
    payment_id: UUID,
    user_id: UUID,
    provider: Provider,
    pack: CreditPack,
    lifetime: timedelta,
    return_url: str | None = None,
    traceparent: str | None = None,
) -> PaymentRecord | None:
    """Insert a payment by the database's clock, due at once; None if it exists already."""
    statement = (
        insert(payment_transactions)
        .values(
            payment_id=payment_id,
            user_id=user_id,
            provider=provider,
            pack_id=pack.id,
            price_cents=pack.price_cents,
            currency=pack.currency,
            credits=pack.credits,
            bonus_credits=pack.bonus_credits,
            status="created",
            created_at=sa.func.now(),
            expires_at=sa.func.now() + lifetime,
            next_look_at=sa.func.now(),
            return_url=return_url,
            traceparent=traceparent,
        )
        .on_conflict_do_nothing(index_elements=["payment_id"])
        .returning(*_COLUMNS)
    )
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _record(row)


async def claim_due(
    connection: AsyncConnection, provider: Provider, room: int, lease: timedelta
) -> list[Claimed[PaymentRecord]]:
    """Claim a provider's payments whose time to be polled has come, longest overdue first."""
    values = {"of_provider": provider, "room": room, "lease": lease}
    return [Claimed(PAYMENTS.claim_of(row), _record(row)) for row in await connection.execute(_CLAIM_DUE, values)]


async def lock_claimed(connection: AsyncConnection, claim: Claim) -> PaymentRecord | None:
    """The payment under its row lock, or None if another worker has claimed it since."""
    statement = sa.select(payment_transactions).where(PAYMENTS.held(claim)).with_for_update()
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _record(row)


async def lock_payment(connection: AsyncConnection, payment_id: UUID) -> PaymentRecord:
    """The payment under its row lock. Raises ``UnknownPayment``."""
    statement = sa.select(payment_transactions).where(_COLUMNS.payment_id == payment_id).with_for_update()
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise UnknownPayment(f"there is no payment {payment_id}")
    return _record(row)


async def find_payment(connection: AsyncConnection, payment_id: UUID) -> PaymentRecord | None:
    """The payment without a lock."""
    statement = sa.select(payment_transactions).where(_COLUMNS.payment_id == payment_id)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _record(row)


async def get_payment_state(connection: AsyncConnection, payment: PaymentRecord, currency: str) -> PaymentState:
    """What we know of a locked payment, for the domain to decide on. Its money has arrived in ``currency``."""
    statement = sa.select(
        credit_movements.c.kind, credit_movements.c.reference, credit_movements.c.amount_credits
    ).where(credit_movements.c.payment_id == payment.payment_id)
    movements = tuple(Movement(*found) for found in await connection.execute(statement))
    decisions = sa.select(reviews.c.code, reviews.c.found).where(
        reviews.c.payment_id == payment.payment_id, reviews.c.resolution.in_(("credited", "dismissed"))
    )
    decided = frozenset((found.code, found.found) for found in await connection.execute(decisions))
    return PaymentState(
        status=payment.status,
        price_cents=payment.price_cents,
        currency=payment.currency,
        credits=payment.credits,
        bonus_credits=payment.bonus_credits,
        paid_cents=payment.paid_cents,
        movements=movements,
        shown_refunds=await find_shown_refunds(connection, payment.payment_id, currency),
        shown_disputes=await find_shown_disputes(connection, payment.payment_id, currency),
        resolution=payment.resolution,
        decided=decided,
    )


async def update_payment(connection: AsyncConnection, changed: PaymentRecord) -> PaymentRecord:
    """Write a new state of a locked payment, one version higher; returns it as it stands now."""
    statement = (
        sa.update(payment_transactions)
        .where(_COLUMNS.payment_id == changed.payment_id, _COLUMNS.version == changed.version)
        .values(
            version=changed.version + 1,
            provider_reference=changed.provider_reference,
            charge_reference=changed.charge_reference,
            status=changed.status,
            resolution=changed.resolution,
            refunded_cents=changed.refunded_cents,
            paid_cents=changed.paid_cents,
            checkout_url=changed.checkout_url,
            receipt_url=changed.receipt_url,
            detail=changed.detail,
            settled_at=changed.settled_at,
        )
        .returning(*_COLUMNS)
    )
    return _record((await connection.execute(statement)).one())


async def schedule_poll(connection: AsyncConnection, claimed: Claimed[PaymentRecord], delay: timedelta | None) -> None:
    """End the claim and plan the next poll; a hint that came meanwhile makes it due at once."""
    planned = sa.null() if delay is None else sa.func.now() + delay
    hinted = _COLUMNS.hints != claimed.row.hint_count
    await PAYMENTS.complete(connection, claimed.claim, next_look_at=sa.case((hinted, sa.func.now()), else_=planned))


async def hint_payments(connection: AsyncConnection, payment_ids: Sequence[UUID]) -> list[str | None]:
    """Something may have changed: have these payments polled now, or again if a poll is under way.

    Returns their traces.
    """
    statement = (
        sa.update(payment_transactions)
        .where(_COLUMNS.payment_id.in_(sorted(set(payment_ids))))
        .values(hints=_COLUMNS.hints + 1, next_look_at=sa.func.now())
        .returning(_COLUMNS.traceparent)
    )
    return list((await connection.execute(statement)).scalars())


async def find_settled_since(connection: AsyncConnection, provider: Provider, since: datetime) -> list[SettledPayment]:
    """Payments of a provider, created since then, that are paid as far as we know."""
    statement = sa.select(_COLUMNS.payment_id, _COLUMNS.status).where(
        _COLUMNS.provider == provider, _COLUMNS.settled_at.is_not(None), _COLUMNS.created_at >= since
    )
    return [SettledPayment(payment_id=row.payment_id, status=row.status) for row in await connection.execute(statement)]


def _record(row: sa.Row[Any]) -> PaymentRecord:
    return PaymentRecord(
        payment_id=row.payment_id,
        user_id=row.user_id,
        version=row.version,
        provider=row.provider,
        provider_reference=row.provider_reference,
        charge_reference=row.charge_reference,
        status=row.status,
        resolution=row.resolution,
        pack_id=row.pack_id,
        price_cents=row.price_cents,
        currency=row.currency,
        credits=row.credits,
        bonus_credits=row.bonus_credits,
        refunded_cents=row.refunded_cents,
        paid_cents=row.paid_cents,
        checkout_url=row.checkout_url,
        return_url=row.return_url,
        receipt_url=row.receipt_url,
        detail=row.detail,
        created_at=row.created_at,
        expires_at=row.expires_at,
        settled_at=row.settled_at,
        next_poll_at=row.next_look_at,
        poll_count=row.looks,
        hint_count=row.hints,
        traceparent=row.traceparent,
    )
