"""The sweeps that make webhooks a convenience: what was missed is found, and what differs is shown with both sides."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
import structlog
from prometheus_client import Counter, Gauge

from messaging.transaction import Transaction, Transactions
from payments import handlers, repository
from payments.domain import Review, Snapshot, advance
from payments.driver import events_total
from payments.errors import CredentialsRefused, ProviderUnavailable
from payments.providers.interface import PaymentProvider, skipping_unreadable

LEASE: Final = timedelta(minutes=15)
"""As long as a round may take. A sweep that failed is made again after a sixth of its interval, at most this."""

OVERLAP: Final = timedelta(minutes=10)
"""Each sweep reads this much again: clocks differ, and an event may be listed a little after it happened."""

WINDOW: Final = timedelta(days=30)
"""Stripe keeps events for 30 days; the daily comparison looks as far."""

POSTING_DUE: Final = timedelta(minutes=10)
"""Billing posts within milliseconds; after ten minutes somebody should know."""

log = structlog.get_logger(__name__)

differences_total = Counter(
    "payments_differences_total", "Differences that the daily sweep found.", ["provider", "code"]
)
failures_total = Counter("payments_sweep_failures_total", "Sweeps that did not finish.", ["sweep", "provider"])
last_sweep_seconds = Gauge(
    "payments_last_sweep_timestamp_seconds", "When a sweep last finished.", ["sweep", "provider"]
)


class Reconciliation:
    """The sweeps of one provider; any number of replicas may run it, and one at a time does each sweep."""

    def __init__(
        self,
        transactions: Transactions,
        provider: PaymentProvider,
        events_interval: timedelta,
        daily_interval: timedelta,
        wake: Callable[[], None],
    ) -> None:
        self._transactions = transactions
        self._provider = provider
        self._events_interval = events_interval
        self._daily_interval = daily_interval
        self._wake = wake

    async def sweep(self) -> None:
        """Run whatever sweep is due. One that fails leaves itself due, and the others untouched."""
        await self._run("events", self._events_interval, self._missed_events)
        await self._run("compare", self._daily_interval, self._compare)

    async def _run(self, sweep: str, interval: timedelta, work: Callable[[sa.Row[Any]], Awaitable[None]]) -> None:
        async with self._transactions.begin() as tx:
            claim = await repository.claim_sweep(tx.connection, f"{sweep}:{self._provider.name}", interval, LEASE)
        if claim is None:
            return
        try:
            await work(claim)
            async with self._transactions.begin() as tx:
                await repository.finish_sweep(tx.connection, claim.name, claim.started_at)
            last_sweep_seconds.labels(sweep, self._provider.name).set_to_current_time()
        except Exception as error:
            failures_total.labels(sweep, self._provider.name).inc()
            if isinstance(error, ProviderUnavailable) and not isinstance(error, CredentialsRefused):
                log.warning("sweep_postponed", sweep=claim.name, reason=str(error))
            else:
                log.exception("sweep_failed", sweep=claim.name, reason=str(error))
        finally:
            async with self._transactions.begin() as tx:
                await repository.release_sweep(tx.connection, claim, min(interval / 6, LEASE))

    async def _missed_events(self, claim: sa.Row[Any]) -> None:
        async for event in self._provider.missed_events(claim.read_until - OVERLAP):
            async with self._transactions.begin() as tx:
                if await handlers.store_event(tx, self._provider.name, event, "sweep", self._wake):
                    events_total.labels(self._provider.name, "sweep").inc()

    async def _compare(self, claim: sa.Row[Any]) -> None:
        """Hold the provider's last 30 days against our payments and the credits that were ordered for them."""
        since = claim.started_at - WINDOW
        listed: set[UUID] = set()
        async for payment_id, snapshot in self._provider.recent_payments(since):
            if payment_id is not None:
                listed.add(payment_id)
            if snapshot is not None:
                with skipping_unreadable(self._provider.name, snapshot.reference):
                    async with self._transactions.begin() as tx:
                        await self._compare_one(tx, payment_id, snapshot)
        async with self._transactions.begin() as tx:
            settled = await repository.settled_since(tx.connection, self._provider.name, since + timedelta(days=1))
        for row in settled:
            if row.payment_id not in listed:
                review = Review("missing_at_provider", row.status, f"{self._provider.name} does not list this payment")
                async with self._transactions.begin() as tx:
                    await self._differ(tx, row.payment_id, review)

    async def _compare_one(self, tx: Transaction, payment_id: UUID | None, snapshot: Snapshot) -> None:
        row = None if payment_id is None else await repository.find_payment(tx.connection, payment_id)
        if row is None or payment_id is None:
            if snapshot.state == "paid":
                found = f"{snapshot.reference}: {snapshot.paid_cents} cents {snapshot.currency} paid"
                await self._differ(tx, None, Review("unknown_payment", "no such payment", found), snapshot)
            return
        if snapshot.state != "paid" and row.settled_at is None:
            return
        row = await repository.lock_payment(tx.connection, payment_id)
        standing = await repository.get_standing(tx.connection, row)
        step = advance(standing, await handlers.with_manual_refunds(tx, row, snapshot))
        if snapshot.state != "paid" and standing.was_credited and snapshot.reference == row.provider_reference:
            await self._differ(tx, payment_id, Review("no_longer_paid", row.status, snapshot.state))
        elif step.movements or step.status != row.status:
            # Looking it up again drives it on; the finding closes itself once both sides agree.
            moves = ", ".join(f"{m.kind} {m.amount_credits}" for m in step.movements) or "no credits"
            review = Review("difference", row.status, f"{step.status}; still to move: {moves}")
            await self._differ(tx, payment_id, review)
            await repository.hint_payments(tx.connection, [payment_id])
            tx.after_commit(self._wake)

    async def _differ(
        self,
        tx: Transaction,
        payment_id: UUID | None,
        review: Review,
        snapshot: Snapshot | None = None,
    ) -> None:
        differences_total.labels(self._provider.name, review.code).inc()
        log.error(
            "payment_differs", payment_id=str(payment_id), code=review.code, ours=review.expected, theirs=review.found
        )
        await handlers.open_review(tx, payment_id, review, "" if snapshot is None else snapshot.reference)


async def report_unposted(transactions: Transactions) -> None:
    """Put before a person what was ordered of billing and is not in the ledger."""
    async with transactions.begin() as tx:
        rows = await repository.unposted_movements(tx.connection, POSTING_DUE)
    for row in rows:
        expected = f"{row.kind} of {row.amount_credits} credits in the ledger"
        review = Review("unposted", expected, f"ordered at {row.ordered_at:%Y-%m-%d %H:%M:%S} UTC, not posted")
        async with transactions.begin() as tx:
            await handlers.open_review(tx, row.payment_id, review, str(row.movement_id))
