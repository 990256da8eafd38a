"""Provider events are hints: each is stored once, and has its payment polled."""

from datetime import timedelta
from typing import Final
from uuid import UUID

from contracts.payments import Provider
from messaging.transaction import Transaction
from payments.domain.payment_state import Review
from payments.domain.records import EventSource
from payments.domain.snapshots import UNREADABLE_EVENT, ProviderEvent
from payments.handlers.reviews import open_review
from payments.repository import payments, provider_events
from payments.repository.leases import Claimed
from payments.wake_ups import WakeUps
from service_runtime.backoff import Backoff
from service_runtime.tracing import link_to

EARLY_FRAUD_WARNING: Final = "radar.early_fraud_warning.created"

MATCH_ATTEMPTS: Final = 12
"""An event that no payment was found for in twelve tries (about two days) is not about a payment of ours."""
UNMATCHED: Final = Backoff(first=timedelta(seconds=30), longest=timedelta(hours=6), factor=3)


async def store_event(
    tx: Transaction, provider: Provider, event: ProviderEvent, source: EventSource, wake_ups: WakeUps
) -> bool:
    """Store a provider's event once, and have its payment polled. False if the event was known."""
    if event.event_type == UNREADABLE_EVENT:
        return await _set_aside(tx, provider, event, source)
    payment_id = await provider_events.find_payment_of(tx.connection, provider, event)
    fresh = await provider_events.add_event(tx.connection, provider, event, source, payment_id)
    if fresh and payment_id is not None:
        await _hint(tx, payment_id, event)
        tx.after_commit(wake_ups.polls[provider].set)
    elif fresh:
        tx.after_commit(wake_ups.events[provider].set)
    return fresh


async def record_match(tx: Transaction, claimed: Claimed[ProviderEvent], payment_id: UUID | None) -> None:
    """The provider was asked which payment an event is about. ``payment_id`` is its answer, None if it knew none.

    An event without a payment of ours is tried again, and given up after ``MATCH_ATTEMPTS``.
    """
    claim = claimed.claim
    if payment_id is not None and await payments.find_payment(tx.connection, payment_id) is not None:
        if await provider_events.record_match(tx.connection, claim, payment_id):
            await _hint(tx, payment_id, claimed.row)
    elif claim.tries < MATCH_ATTEMPTS:
        await provider_events.postpone_match(tx.connection, claim, UNMATCHED.delay(claim.tries, claim.key))
    else:
        await provider_events.give_up_match(tx.connection, claim)


async def _set_aside(tx: Transaction, provider: Provider, event: ProviderEvent, source: EventSource) -> bool:
    """Keep an event that nobody could read, and have a person read it. No payment waits for it: each is polled."""
    fresh = await provider_events.add_event(tx.connection, provider, event, source, None, match=False)
    if fresh:
        review = Review("unreadable_event", f"an event as {provider} documents it", f"{len(event.body)} bytes")
        await open_review(tx, None, review, event.event_id)
    return fresh


async def _hint(tx: Transaction, payment_id: UUID, event: ProviderEvent) -> None:
    for traceparent in await payments.hint_payments(tx.connection, [payment_id]):
        link_to(traceparent)
    if event.event_type == EARLY_FRAUD_WARNING:
        found = f"event {event.event_id}: refund before it becomes a dispute"
        await open_review(tx, payment_id, Review("early_fraud_warning", "no warning", found), event.event_id)
