"""The sweeps that make webhooks optional: missed events are read, and differences are shown with both sides."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from messaging.transaction import Transaction, Transactions
from payments.domain.clawbacks import forgotten_takings
from payments.domain.payment_state import Review
from payments.domain.records import Sweep
from payments.domain.snapshots import Snapshot
from payments.domain.transitions import apply_snapshot
from payments.errors import CredentialsRefused, ProviderUnavailable
from payments.handlers.polls import with_manual_refunds
from payments.handlers.provider_events import store_event
from payments.handlers.reviews import open_review
from payments.metrics import differences_total, last_sweep_seconds, provider_events_total, sweep_failures_total
from payments.providers.interface import PaymentProvider
from payments.providers.reading import skipping_unreadable
from payments.repository import payments, sweeps
from payments.repository.leases import Claimed
from payments.wake_ups import WakeUps
from service_runtime.backoff import Backoff

SWEEP_SECONDS: Final = 900.0
"""The longest that a sweep may take."""

FAILED_SWEEP: Final = Backoff(first=timedelta(minutes=1), longest=timedelta(minutes=15))
"""After a sweep that died of something else than its provider."""

LONGEST_PAUSE: Final = timedelta(minutes=15)
"""A sweep that its provider refused or did not answer is made again after a sixth of its interval, at most this."""

OVERLAP: Final = timedelta(minutes=10)
"""Each sweep reads this much again: clocks differ, and an event may be listed a little after it happened."""

WINDOW: Final = timedelta(days=30)
"""Stripe keeps events for 30 days; the daily comparison reads as far back."""

log = structlog.get_logger(__name__)


class Reconciliation:
    """The work of one provider's ``LeasedWorker`` on its sweeps: missed events, and the daily comparison."""

    def __init__(
        self,
        transactions: Transactions,
        provider: PaymentProvider,
        events_interval: timedelta,
        compare_interval: timedelta,
        wake_ups: WakeUps,
    ) -> None:
        self._transactions = transactions
        self._provider = provider
        self._wake_ups = wake_ups
        self._sweeps: Mapping[str, tuple[timedelta, Callable[[Sweep], Awaitable[None]]]] = {
            f"events:{provider.name}": (events_interval, self._missed_events),
            f"compare:{provider.name}": (compare_interval, self._compare),
        }

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> list[Claimed[Sweep]]:
        """Claim sweeps that are due."""
        await sweeps.add_sweeps(connection, list(self._sweeps))
        return await sweeps.claim_sweeps(connection, self._provider.name, room, lease)

    async def work(self, claimed: Claimed[Sweep]) -> None:
        """Make one sweep. Findings are stored one by one and may repeat; the fence guards how far it has read."""
        sweep, provider = claimed.row.name.partition(":")[0], self._provider.name
        interval, make = self._sweeps[claimed.row.name]
        try:
            await make(claimed.row)
        except Exception as error:
            sweep_failures_total.labels(sweep, provider).inc()
            if isinstance(error, ProviderUnavailable) and not isinstance(error, CredentialsRefused):
                log.warning("sweep_postponed", sweep=claimed.row.name, reason=str(error))
            else:
                log.error("sweep_failed", sweep=claimed.row.name, exc_info=error)
            async with self._transactions.begin() as tx:
                await sweeps.postpone_sweep(tx.connection, claimed.claim, min(interval / 6, LONGEST_PAUSE))
            return
        async with self._transactions.begin() as tx:
            finished = await sweeps.finish_sweep(tx.connection, claimed, interval)
        if finished:
            last_sweep_seconds.labels(sweep, provider).set_to_current_time()

    async def _missed_events(self, sweep: Sweep) -> None:
        async for event in self._provider.missed_events(sweep.read_until - OVERLAP):
            async with self._transactions.begin() as tx:
                if await store_event(tx, self._provider.name, event, "sweep", self._wake_ups):
                    provider_events_total.labels(self._provider.name, "sweep").inc()

    async def _compare(self, sweep: Sweep) -> None:
        """Compare the provider's last 30 days with our payments and their credits."""
        since = sweep.started_at - WINDOW
        listed: set[UUID] = set()
        async for payment_id, snapshot in self._provider.recent_payments(since):
            if payment_id is not None:
                listed.add(payment_id)
            if snapshot is not None:
                with skipping_unreadable(self._provider.name, snapshot.reference):
                    async with self._transactions.begin() as tx:
                        await self._compare_one(tx, payment_id, snapshot)
        async with self._transactions.begin() as tx:
            settled = await payments.find_settled_since(tx.connection, self._provider.name, since + timedelta(days=1))
        for payment in settled:
            if payment.payment_id not in listed:
                found = f"{self._provider.name} does not list this payment"
                review = Review("missing_at_provider", payment.status, found)
                async with self._transactions.begin() as tx:
                    await self._report_difference(tx, payment.payment_id, review)

    async def _compare_one(self, tx: Transaction, payment_id: UUID | None, snapshot: Snapshot) -> None:
        known = None if payment_id is None else await payments.find_payment(tx.connection, payment_id)
        if known is None:
            if snapshot.state == "paid":
                found = f"{snapshot.reference}: {snapshot.paid_cents} cents {snapshot.currency} paid"
                await self._report_difference(tx, None, Review("unknown_payment", "no such payment", found), snapshot)
            return
        if snapshot.state != "paid" and known.settled_at is None:
            return
        payment = await payments.lock_payment(tx.connection, known.payment_id)
        state = await payments.get_payment_state(tx.connection, payment, snapshot.currency)
        seen = await with_manual_refunds(tx, payment, snapshot)
        transition = apply_snapshot(state, seen)
        if snapshot.state != "paid" and state.credited_as_paid:
            # Another checkout of the same payment that stayed unused says nothing.
            if snapshot.reference == payment.provider_reference and transition.review is not None:
                await self._report_difference(tx, payment.payment_id, transition.review)
        elif transition.movements or transition.status != payment.status:
            # The poll corrects it; the review closes by itself once both sides agree.
            moves = ", ".join(f"{m.kind} {m.amount_credits}" for m in transition.movements) or "no credits"
            review = Review("difference", payment.status, f"{transition.status}; still to move: {moves}")
            await self._report_difference(tx, payment.payment_id, review)
            await self._hint(tx, payment.payment_id)
        elif forgotten_takings(state, seen):
            # It shows less than it did. What was listed may be a part: the poll that sees all of it reports.
            await self._hint(tx, payment.payment_id)

    async def _hint(self, tx: Transaction, payment_id: UUID) -> None:
        await payments.hint_payments(tx.connection, [payment_id])
        tx.after_commit(self._wake_ups.polls[self._provider.name].set)

    async def _report_difference(
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
        await open_review(tx, payment_id, review, "" if snapshot is None else snapshot.reference)
