"""What providers say: webhooks, and events read from their lists."""

from datetime import timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.payments import Provider
from messaging.leases import BOUND_LEASE, Claim, any_of
from payments.domain.records import EventSource
from payments.domain.snapshots import ProviderEvent
from payments.repository.leases import EVENTS, Claimed
from payments.tables import payment_transactions, provider_events

_of_provider = provider_events.c.provider == sa.bindparam("of_provider")
_UNMATCHED: Final = (
    sa.select(provider_events.c.event_id)
    .where(_of_provider, EVENTS.due())
    .order_by(provider_events.c.next_match_at)
    .limit(sa.bindparam("room"))
    .with_for_update(skip_locked=True)
)
_CLAIM_UNMATCHED: Final = (
    sa.update(provider_events)
    .where(_of_provider, any_of(provider_events.c.event_id, _UNMATCHED))
    .values(EVENTS.claim_values(BOUND_LEASE))
    .returning(*provider_events.c)
)


async def add_event(
    connection: AsyncConnection,
    provider: Provider,
    event: ProviderEvent,
    source: EventSource,
    payment_id: UUID | None,
    match: bool = True,
) -> bool:
    """Store a provider's event once; False if it was known. Without a payment it waits to be matched, if ``match``."""
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
            next_match_at=sa.func.now() if match and not matched else None,
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
    connection: AsyncConnection, provider: Provider, room: int, lease: timedelta
) -> list[Claimed[ProviderEvent]]:
    """Claim a provider's events whose payment is not known yet, longest overdue first."""
    values = {"of_provider": provider, "room": room, "lease": lease}
    return [
        Claimed(EVENTS.claim_of(row), ProviderEvent(row.event_id, row.event_type, None, row.reference, row.body))
        for row in await connection.execute(_CLAIM_UNMATCHED, values)
    ]


async def record_match(connection: AsyncConnection, claim: Claim, payment_id: UUID) -> bool:
    """The event is about this payment. False if another worker has claimed the event since."""
    return await EVENTS.complete(connection, claim, payment_id=payment_id, matched_at=sa.func.now())


async def postpone_match(connection: AsyncConnection, claim: Claim, delay: timedelta) -> None:
    """No payment was found: the provider is asked again after ``delay``."""
    await EVENTS.postpone(connection, claim, delay)


async def give_up_match(connection: AsyncConnection, claim: Claim) -> None:
    """No payment was found in all tries: the event is about none of ours."""
    await EVENTS.complete(connection, claim)
