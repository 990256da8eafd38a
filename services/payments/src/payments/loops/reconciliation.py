"""The sweeps that make webhooks a convenience: what was missed is found, and what differs is shown with both sides."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from messaging.transaction import Transaction, Transactions
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

LEASE: Final = timedelta(minutes=15)
"""As long as a round may take. A sweep that failed is made again after a sixth of its interval, at most this."""

SWEEP_LIMIT_SECONDS: Final = LEASE.total_seconds()

OVERLAP: Final = timedelta(minutes=10)
"""Each sweep reads this much again: clocks differ, and an event may be listed a little after it happened."""

WINDOW: Final = timedelta(days=30)
"""Stripe keeps events for 30 days; the daily comparison looks as far."""

log = structlog.get_logger(__name__)


class Reconciliation:
    """The sweeps of one provider. Any number of replicas may run it: each sweep is made by one at a time."""

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
        """Run the sweeps that are due. One that fails is due again soon, and does not stop the other."""
        await self._run("events", self._events_interval, self._missed_events)
        await self._run("compare", self._daily_interval, self._compare)

    async def _run(self, sweep: str, interval: timedelta, work: Callable[[Sweep], Awaitable[None]]) -> None:
        async with self._transactions.begin() as tx:
            claim = await sweeps.claim_sweep(tx.connection, f"{sweep}:{self._provider.name}", interval, LEASE)
        if claim is None:
            return
        try:
            await work(claim)
            async with self._transactions.begin() as tx:
                await sweeps.finish_sweep(tx.connection, claim)
            last_sweep_seconds.labels(sweep, self._provider.name).set_to_current_time()
        except Exception as error:
            sweep_failures_total.labels(sweep, self._provider.name).inc()
            if isinstance(error, ProviderUnavailable) and not isinstance(error, CredentialsRefused):
                log.warning("sweep_postponed", sweep=claim.name, reason=str(error))
            else:
                log.exception("sweep_failed", sweep=claim.name, reason=str(error))
        finally:
            async with self._transactions.begin() as tx:
                await sweeps.release_sweep(tx.connection, claim, min(interval / 6, LEASE))

    async def _missed_events(self, claim: Sweep) -> None:
        async for event in self._provider.missed_events(claim.read_until - OVERLAP):
            async with self._transactions.begin() as tx:
                if await store_event(tx, self._provider.name, event, "sweep", self._wake):
                    provider_events_total.labels(self._provider.name, "sweep").inc()

    async def _compare(self, claim: Sweep) -> None:
        """Hold the provider's last 30 days against our payments and their credits."""
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
        state = await payments.get_payment_state(tx.connection, payment)
        transition = apply_snapshot(state, await with_manual_refunds(tx, payment, snapshot))
        if snapshot.state != "paid" and state.credited_as_paid and snapshot.reference == payment.provider_reference:
            review = Review("no_longer_paid", payment.status, snapshot.state)
            await self._report_difference(tx, payment.payment_id, review)
        elif transition.movements or transition.status != payment.status:
            # The poll corrects it; the review closes by itself once both sides agree.
            moves = ", ".join(f"{m.kind} {m.amount_credits}" for m in transition.movements) or "no credits"
            review = Review("difference", payment.status, f"{transition.status}; still to move: {moves}")
            await self._report_difference(tx, payment.payment_id, review)
            await payments.hint_payments(tx.connection, [payment.payment_id])
            tx.after_commit(self._wake)

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
