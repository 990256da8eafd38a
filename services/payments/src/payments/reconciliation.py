"""The sweeps that make webhooks a convenience: what was missed is found, and what differs is shown with both sides."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from prometheus_client import Counter, Gauge

from contracts.payments import Provider
from messaging.transaction import Transaction, Transactions
from payments import handlers, repository
from payments.domain import Review, Snapshot, advance
from payments.driver import events_total
from payments.errors import ProviderUnavailable
from payments.providers.interface import PaymentProvider

LEASE: Final = timedelta(minutes=15)
OVERLAP: Final = timedelta(hours=1)
"""Providers list an event as undelivered only after its first tries failed: each sweep reads an hour back."""

WINDOW: Final = timedelta(days=30)
"""Stripe keeps events for 30 days; the daily comparison looks as far."""

POSTING_DUE: Final = timedelta(minutes=10)
"""Billing posts within milliseconds; after ten minutes somebody should know."""

log = structlog.get_logger(__name__)

differences_total = Counter(
    "payments_differences_total", "Differences that the daily sweep found.", ["provider", "code"]
)
last_sweep_seconds = Gauge(
    "payments_last_sweep_timestamp_seconds", "When a sweep last finished.", ["sweep", "provider"]
)


class Reconciliation:
    """Sweeps of one or more providers; any number of replicas may run it, and one at a time does each sweep."""

    def __init__(
        self,
        transactions: Transactions,
        providers: Mapping[Provider, PaymentProvider],
        events_interval: timedelta,
        daily_interval: timedelta,
        wake: Callable[[], None],
    ) -> None:
        self._transactions = transactions
        self._providers = providers
        self._events_interval = events_interval
        self._daily_interval = daily_interval
        self._wake = wake

    async def sweep(self) -> None:
        """Run whatever sweep is due. A provider that does not answer leaves its sweep due."""
        for provider in self._providers.values():
            try:
                await self._missed_events(provider)
                await self._compare(provider)
            except ProviderUnavailable as error:
                log.warning("sweep_postponed", provider=provider.name, reason=str(error))
        await self._unposted()

    async def _missed_events(self, provider: PaymentProvider) -> None:
        name = f"events:{provider.name}"
        async with self._transactions.begin() as tx:
            claim = await repository.claim_sweep(tx.connection, name, self._events_interval, LEASE)
        if claim is None:
            return
        async for event in provider.missed_events(claim.read_until - OVERLAP):
            async with self._transactions.begin() as tx:
                if await handlers.store_event(tx, provider.name, event, "sweep", self._wake):
                    events_total.labels(provider.name, "sweep").inc()
        async with self._transactions.begin() as tx:
            await repository.finish_sweep(tx.connection, name, claim.started_at)
        last_sweep_seconds.labels("events", provider.name).set_to_current_time()

    async def _compare(self, provider: PaymentProvider) -> None:
        """Hold the provider's last 30 days against our payments and the credits that were ordered for them."""
        name = f"compare:{provider.name}"
        async with self._transactions.begin() as tx:
            claim = await repository.claim_sweep(tx.connection, name, self._daily_interval, LEASE)
        if claim is None:
            return
        since = claim.started_at - WINDOW
        listed: set[UUID] = set()
        async for payment_id, snapshot in provider.recent_payments(since):
            if payment_id is not None:
                listed.add(payment_id)
            async with self._transactions.begin() as tx:
                await self._compare_one(tx, provider, payment_id, snapshot)
        async with self._transactions.begin() as tx:
            for row in await repository.settled_since(tx.connection, provider.name, since + timedelta(days=1)):
                if row.payment_id not in listed:
                    review = Review("missing_at_provider", row.status, f"{provider.name} does not list this payment")
                    await self._differ(tx, provider, row.payment_id, review)
            await repository.finish_sweep(tx.connection, name, claim.started_at)
        last_sweep_seconds.labels("compare", provider.name).set_to_current_time()

    async def _compare_one(
        self, tx: Transaction, provider: PaymentProvider, payment_id: UUID | None, snapshot: Snapshot
    ) -> None:
        row = None if payment_id is None else await repository.find_payment(tx.connection, payment_id)
        if row is None or payment_id is None:
            if snapshot.state == "paid":
                found = f"{snapshot.reference}: {snapshot.paid_cents} cents {snapshot.currency} paid"
                await self._differ(tx, provider, None, Review("unknown_payment", "no such payment", found), snapshot)
            return
        if snapshot.state != "paid" and row.settled_at is None:
            return
        step = advance(await repository.get_standing(tx.connection, row), snapshot)
        if step.movements or step.status != row.status:
            # Looking it up again drives it on; the finding closes itself once both sides agree.
            moves = ", ".join(f"{m.kind} {m.amount_credits}" for m in step.movements) or "no credits"
            review = Review("difference", row.status, f"{step.status}; still to move: {moves}")
            await self._differ(tx, provider, payment_id, review)
            await repository.hint_payments(tx.connection, [payment_id])
            tx.after_commit(self._wake)

    async def _differ(
        self,
        tx: Transaction,
        provider: PaymentProvider,
        payment_id: UUID | None,
        review: Review,
        snapshot: Snapshot | None = None,
    ) -> None:
        differences_total.labels(provider.name, review.code).inc()
        log.error(
            "payment_differs", payment_id=str(payment_id), code=review.code, ours=review.expected, theirs=review.found
        )
        await handlers.open_review(tx, payment_id, review, "" if snapshot is None else snapshot.reference)

    async def _unposted(self) -> None:
        async with self._transactions.begin() as tx:
            rows: list[Any] = await repository.unposted_movements(tx.connection, POSTING_DUE)
            for row in rows:
                expected = f"{row.kind} of {row.amount_credits} credits in the ledger"
                review = Review("unposted", expected, f"ordered at {row.ordered_at:%Y-%m-%d %H:%M:%S} UTC, not posted")
                await handlers.open_review(tx, row.payment_id, review, str(row.movement_id))
