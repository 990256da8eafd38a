"""All SQL of payments that writes, and the reads that decide a write.

Lock order: ``payers`` (advisory, by user) before ``payment_transactions`` before everything else of that payment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.payments import Payment, PaymentStatus
from payments.domain import Movement, ProviderDispute, ProviderRefund, Review, Standing
from payments.errors import UnknownPayment
from payments.providers.interface import Order, ProviderEvent
from payments.tables import (
    credit_movements,
    disputes,
    payment_transactions,
    provider_events,
    refunds,
    reviews,
    sweeps,
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
        )


async def lock_payer(connection: AsyncConnection, user_id: UUID) -> None:
    """Take one user's creations in turn, so that counting their open payments and adding one cannot interleave."""
    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(str(user_id), 0))))


async def count_open(connection: AsyncConnection, user_id: UUID) -> int:
    """How many payments of the user wait for money."""
    statement = sa.select(sa.func.count()).where(
        payment_transactions.c.user_id == user_id, payment_transactions.c.status.in_(OPEN_STATUSES)
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


async def claim_due(connection: AsyncConnection, limit: int, lease: timedelta) -> list[Claim]:
    """Lease payments whose time to be looked at has come, longest overdue first."""
    due = (
        sa.select(payment_transactions.c.payment_id)
        .where(
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


async def get_standing(connection: AsyncConnection, row: sa.Row[Any]) -> Standing:
    """What we hold true of a locked payment, for the domain to decide on."""
    statement = sa.select(
        credit_movements.c.kind, credit_movements.c.reference, credit_movements.c.amount_credits
    ).where(credit_movements.c.payment_id == row.payment_id)
    movements = tuple(Movement(*found) for found in await connection.execute(statement))
    return Standing(
        payment_id=row.payment_id,
        status=row.status,
        price_cents=row.price_cents,
        currency=row.currency,
        credits=row.credits,
        bonus_credits=row.bonus_credits,
        movements=movements,
        resolution=row.resolution,
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


async def add_event(
    connection: AsyncConnection, provider: str, event: ProviderEvent, source: str, payment_id: UUID | None
) -> bool:
    """Store a provider's event once; False if it was known. Without a payment it waits to be matched."""
    matched = payment_id is not None
    statement = (
        insert(provider_events)
        .values(
            provider=provider,
            event_id=event.event_id,
            event_type=event.event_type,
            reference=event.reference,
            payment_id=payment_id,
            body=event.body,
            source=source,
            matched_at=sa.func.now() if matched else None,
            next_match_at=None if matched else sa.func.now(),
        )
        .on_conflict_do_nothing()
        .returning(provider_events.c.event_id)
    )
    return (await connection.execute(statement)).one_or_none() is not None


async def find_payment_of(connection: AsyncConnection, provider: str, event: ProviderEvent) -> UUID | None:
    """The payment that an event is about, as far as our own rows can tell."""
    transactions = payment_transactions.c
    matches = [transactions.payment_id == event.payment_id] if event.payment_id else []
    if event.reference:
        matches += [
            transactions.provider_reference == event.reference,
            transactions.charge_reference == event.reference,
        ]
    if not matches:
        return None
    statement = sa.select(transactions.payment_id).where(transactions.provider == provider, sa.or_(*matches)).limit(1)
    return (await connection.execute(statement)).scalar_one_or_none()


async def claim_unmatched(connection: AsyncConnection, limit: int, lease: timedelta) -> list[sa.Row[Any]]:
    """Events whose payment is not known yet, postponed by ``lease`` so that another replica does not take them too."""
    due = (
        sa.select(provider_events.c.provider, provider_events.c.event_id)
        .where(provider_events.c.next_match_at <= sa.func.now())
        .order_by(provider_events.c.next_match_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        sa.update(provider_events)
        .where(sa.tuple_(provider_events.c.provider, provider_events.c.event_id).in_(due))
        .values(next_match_at=sa.func.now() + lease, match_attempts=provider_events.c.match_attempts + 1)
        .returning(*provider_events.c)
    )
    return list(await connection.execute(statement))


async def settle_event(
    connection: AsyncConnection, event: sa.Row[Any], payment_id: UUID | None, retry_in: timedelta | None
) -> None:
    """Record what an unmatched event turned out to be about; without a payment it is tried again or left alone."""
    statement = (
        sa.update(provider_events)
        .where(provider_events.c.provider == event.provider, provider_events.c.event_id == event.event_id)
        .values(
            payment_id=payment_id,
            matched_at=None if payment_id is None else sa.func.now(),
            next_match_at=None if retry_in is None else sa.func.now() + retry_in,
        )
    )
    await connection.execute(statement)


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


async def mark_posted(connection: AsyncConnection, movement_ids: Sequence[UUID]) -> None:
    """Billing's ledger has these movements."""
    statement = (
        sa.update(credit_movements)
        .where(credit_movements.c.movement_id.in_(list(movement_ids)), credit_movements.c.posted_at.is_(None))
        .values(posted_at=sa.func.now())
    )
    await connection.execute(statement)


async def put_refunds(
    connection: AsyncConnection, payment_id: UUID, provider: str, found: Sequence[ProviderRefund]
) -> None:
    """Mirror the provider's refunds; those that we did not order are the dashboard's."""
    if not found:
        return
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


async def put_review(
    connection: AsyncConnection, payment_id: UUID | None, review_id: UUID, review: Review, reference: str = ""
) -> None:
    """Open a review, or see an open one again. One that was decided stays decided."""
    statement = insert(reviews).values(
        review_id=review_id,
        payment_id=payment_id,
        code=review.code,
        reference=reference,
        expected=review.expected,
        found=review.found,
    )
    statement = statement.on_conflict_do_update(
        index_elements=["payment_id", "code", "reference"],
        set_={"last_seen_at": sa.func.now(), "found": statement.excluded.found},
        where=reviews.c.resolved_at.is_(None),
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


async def resolve_reviews(connection: AsyncConnection, payment_id: UUID, code: str, actor: str) -> None:
    """Close the open reviews of one kind: what they reported is no longer so."""
    statement = (
        sa.update(reviews)
        .where(reviews.c.payment_id == payment_id, reviews.c.code == code, reviews.c.resolved_at.is_(None))
        .values(resolved_at=sa.func.now(), resolution="healed", actor=actor)
    )
    await connection.execute(statement)


async def lock_review(connection: AsyncConnection, review_id: UUID) -> sa.Row[Any] | None:
    """One review under its row lock."""
    statement = sa.select(reviews).where(reviews.c.review_id == review_id).with_for_update()
    return (await connection.execute(statement)).one_or_none()


async def decide_review(connection: AsyncConnection, review_id: UUID, resolution: str, actor: str, note: str) -> None:
    """Record a person's decision."""
    statement = (
        sa.update(reviews)
        .where(reviews.c.review_id == review_id)
        .values(resolved_at=sa.func.now(), resolution=resolution, actor=actor, note=note)
    )
    await connection.execute(statement)


async def add_refund(connection: AsyncConnection, values: dict[str, Any]) -> bool:
    """Write down that a refund is wanted (or was made by hand); False if this refund id is known."""
    statement = insert(refunds).values(**values).on_conflict_do_nothing().returning(refunds.c.refund_id)
    return (await connection.execute(statement)).one_or_none() is not None


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


async def claim_refunds(connection: AsyncConnection, limit: int, lease: timedelta) -> list[sa.Row[Any]]:
    """Ordered refunds that no provider has confirmed, postponed by ``lease``; sending one twice refunds once."""
    due = (
        sa.select(refunds.c.refund_id)
        .where(refunds.c.state == "requested", refunds.c.next_try_at <= sa.func.now())
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
    """The provider took the order. A mirror row that its webhook made meanwhile gives way to ours."""
    mirror = sa.delete(refunds).where(refunds.c.provider_reference == reference, refunds.c.refund_id != refund_id)
    await connection.execute(mirror)
    statement = (
        sa.update(refunds)
        .where(refunds.c.refund_id == refund_id)
        .values(provider_reference=reference, state="pending", next_try_at=None, updated_at=sa.func.now())
    )
    await connection.execute(statement)


async def fail_refund(connection: AsyncConnection, refund_id: UUID, note: str) -> None:
    """The provider will never make this refund."""
    statement = (
        sa.update(refunds)
        .where(refunds.c.refund_id == refund_id)
        .values(state="failed", note=note, next_try_at=None, updated_at=sa.func.now())
    )
    await connection.execute(statement)


async def claim_sweep(
    connection: AsyncConnection, name: str, interval: timedelta, lease: timedelta
) -> sa.Row[Any] | None:
    """Take a sweep whose time has come, for one replica; None if it is not due or is being made."""
    await connection.execute(
        insert(sweeps).values(name=name, read_until=sa.func.now()).on_conflict_do_nothing(index_elements=["name"])
    )
    statement = (
        sa.update(sweeps)
        .where(
            sweeps.c.name == name,
            sa.or_(sweeps.c.finished_at.is_(None), sweeps.c.finished_at <= sa.func.now() - interval),
            sa.or_(sweeps.c.leased_until.is_(None), sweeps.c.leased_until < sa.func.now()),
        )
        .values(leased_until=sa.func.now() + lease)
        .returning(sweeps.c.read_until, sa.func.now().label("started_at"))
    )
    return (await connection.execute(statement)).one_or_none()


async def finish_sweep(connection: AsyncConnection, name: str, read_until: datetime) -> None:
    """Everything up to ``read_until`` has been seen."""
    statement = (
        sa.update(sweeps)
        .where(sweeps.c.name == name)
        .values(read_until=read_until, finished_at=sa.func.now(), leased_until=None)
    )
    await connection.execute(statement)


async def find_payment(connection: AsyncConnection, payment_id: UUID) -> sa.Row[Any] | None:
    """The payment without a lock."""
    statement = sa.select(payment_transactions).where(payment_transactions.c.payment_id == payment_id)
    return (await connection.execute(statement)).one_or_none()


async def settled_since(connection: AsyncConnection, provider: str, since: datetime) -> list[sa.Row[Any]]:
    """Payments that we hold to be paid at a provider since then."""
    statement = sa.select(payment_transactions.c.payment_id, payment_transactions.c.status).where(
        payment_transactions.c.provider == provider,
        payment_transactions.c.settled_at.is_not(None),
        payment_transactions.c.created_at >= since,
    )
    return list(await connection.execute(statement))


async def unposted_movements(connection: AsyncConnection, older_than: timedelta) -> list[sa.Row[Any]]:
    """Credit movements that billing has not confirmed in a time in which it should have."""
    statement = sa.select(credit_movements).where(
        credit_movements.c.posted_at.is_(None), credit_movements.c.ordered_at < sa.func.now() - older_than
    )
    return list(await connection.execute(statement))
