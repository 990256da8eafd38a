"""What providers told us: webhooks, and events read from their lists."""

from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.payments import Provider
from payments.domain.records import EventSource, UnmatchedEvent
from payments.domain.snapshots import ProviderEvent
from payments.tables import payment_transactions, provider_events


async def add_event(
    connection: AsyncConnection, provider: Provider, event: ProviderEvent, source: EventSource, payment_id: UUID | None
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


async def find_payment_of(connection: AsyncConnection, provider: Provider, event: ProviderEvent) -> UUID | None:
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


async def claim_unmatched(
    connection: AsyncConnection, provider: Provider, limit: int, lease: timedelta
) -> list[UnmatchedEvent]:
    """Events whose payment is not known yet, postponed by ``lease`` so that another replica does not take them too."""
    due = (
        sa.select(provider_events.c.provider, provider_events.c.event_id)
        .where(provider_events.c.provider == provider, provider_events.c.next_match_at <= sa.func.now())
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
    return [
        UnmatchedEvent(
            provider=row.provider,
            event=ProviderEvent(row.event_id, row.event_type, None, row.reference, row.body),
            match_attempts=row.match_attempts,
        )
        for row in await connection.execute(statement)
    ]


async def record_match(
    connection: AsyncConnection, unmatched: UnmatchedEvent, payment_id: UUID | None, retry_in: timedelta | None
) -> None:
    """Record what an unmatched event is about. Without a payment it is tried again, or left alone for good."""
    statement = (
        sa.update(provider_events)
        .where(
            provider_events.c.provider == unmatched.provider,
            provider_events.c.event_id == unmatched.event.event_id,
        )
        .values(
            payment_id=payment_id,
            matched_at=None if payment_id is None else sa.func.now(),
            next_match_at=None if retry_in is None else sa.func.now() + retry_in,
        )
    )
    await connection.execute(statement)
