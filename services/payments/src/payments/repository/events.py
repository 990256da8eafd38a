"""What providers said, and how far the sweeps have read."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from payments.providers.interface import ProviderEvent
from payments.tables import (
    payment_transactions,
    provider_events,
    sweeps,
)


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


async def claim_unmatched(
    connection: AsyncConnection, provider: str, limit: int, lease: timedelta
) -> list[sa.Row[Any]]:
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
        .returning(*sweeps.c, sa.func.now().label("started_at"))
    )
    return (await connection.execute(statement)).one_or_none()


async def release_sweep(connection: AsyncConnection, claim: sa.Row[Any], pause: timedelta) -> None:
    """Leave a sweep that did not finish to be made again after ``pause``; nothing happens if it is finished."""
    statement = (
        sa.update(sweeps)
        .where(sweeps.c.name == claim.name, sweeps.c.leased_until == claim.leased_until)
        .values(leased_until=sa.func.now() + pause)
    )
    await connection.execute(statement)


async def finish_sweep(connection: AsyncConnection, name: str, read_until: datetime) -> None:
    """Everything up to ``read_until`` has been seen."""
    statement = (
        sa.update(sweeps)
        .where(sweeps.c.name == name)
        .values(read_until=read_until, finished_at=sa.func.now(), leased_until=None)
    )
    await connection.execute(statement)
