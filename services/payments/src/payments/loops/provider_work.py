"""Work at one provider: polling payments, opening checkouts, sending refunds, matching events."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, TypeVar

import structlog

from messaging.failpoints import failpoint
from messaging.transaction import Transactions
from payments.domain.records import RefundRecord, UnmatchedEvent
from payments.errors import ProviderRefused, ProviderUnavailable
from payments.handlers import polls
from payments.handlers import provider_events as event_handlers
from payments.handlers import refunds as refund_handlers
from payments.loops.provider_calls import call_provider
from payments.metrics import work_failures_total
from payments.providers.interface import PaymentProvider
from payments.repository import payments, provider_events, refunds
from payments.repository.payments import Claim
from service_runtime.backoff import Backoff

LEASE: Final = timedelta(seconds=120)
"""Longer than a call and the recording of its outcome."""

BATCH: Final = 8
"""How much is claimed at a time. All of it is called at once: no lease runs out in a queue."""

ROUND_SECONDS: Final = 60.0
ROUND_LIMIT_SECONDS: Final = 300.0
"""A round begins no batch after a minute. A batch takes three calls one after the other, and is never cut short."""

MATCH_ATTEMPTS: Final = 12
"""An event that no payment was found for in twelve tries (about two days) is not about a payment of ours."""
UNMATCHED: Final = Backoff(first=timedelta(seconds=30), longest=timedelta(hours=6), factor=3)

log = structlog.get_logger(__name__)

Outcome = TypeVar("Outcome")
Work = TypeVar("Work")


class ProviderWork:
    """Polls one provider's due payments, opens checkouts, sends requested refunds and matches events.

    Each provider has its own: one that hangs delays no other.
    """

    def __init__(self, transactions: Transactions, provider: PaymentProvider) -> None:
        self._transactions = transactions
        self._provider = provider

    async def run_round(self) -> None:
        """Do what is due now, batch after batch, until nothing is due or the round is over."""
        end = time.monotonic() + ROUND_SECONDS
        while await self._batch() and time.monotonic() < end:
            pass

    async def _batch(self) -> int:
        return await self.match_events() + await self.send_refunds() + await self.poll_payments()

    async def poll_payments(self) -> int:
        """Poll a batch of due payments, and open the checkouts of new ones; returns how many were due."""
        async with self._transactions.begin() as tx:
            claims = await payments.claim_due(tx.connection, self._provider.name, BATCH, LEASE)
        await self._all(self._poll, claims)
        return len(claims)

    async def _poll(self, claim: Claim) -> None:
        payment_id = str(claim.payment.payment_id)
        try:
            await self._call_about(claim)
        except ProviderRefused as error:
            log.error("provider_refused", payment_id=payment_id, reason=str(error))
            async with self._transactions.begin() as tx:
                await polls.record_refusal(tx, claim, str(error))
        except Exception as error:  # noqa: BLE001 - reported; the oldest due payment must not be the next one again
            self._report("payment_postponed", error, payment_id=payment_id)
            async with self._transactions.begin() as tx:
                await polls.postpone(tx, claim)

    async def _call_about(self, claim: Claim) -> None:
        payment = claim.payment
        if payment.provider_reference is not None:
            snapshot = await self._call("look_up", self._provider.look_up(payment))
            failpoint("payments.after_look_up")
            async with self._transactions.begin() as tx:
                await polls.record_snapshot(tx, claim, snapshot)
        elif payment.status == "created":
            checkout = await self._call("open_checkout", self._provider.open_checkout(payment))
            failpoint("payments.after_open_checkout")
            async with self._transactions.begin() as tx:
                await polls.record_checkout(tx, claim, checkout)
        else:
            raise ProviderRefused("an event of a payment whose checkout was never opened")

    async def send_refunds(self) -> int:
        """Send a batch of requested refunds; returns how many were due."""
        async with self._transactions.begin() as tx:
            requested = await refunds.claim_refunds(tx.connection, self._provider.name, BATCH, LEASE)
        await self._all(self._refund, requested)
        return len(requested)

    async def _refund(self, requested: RefundRecord) -> None:
        async with self._transactions.begin() as tx:
            payment = await payments.lock_payment(tx.connection, requested.payment_id)
        refund_id = requested.refund_id
        try:
            reference = await self._call("refund", self._provider.refund(payment, refund_id, requested.amount_cents))
        except ProviderUnavailable as error:
            self._report("refund_postponed", error, refund_id=str(refund_id))
            return
        except ProviderRefused as error:
            log.error("refund_refused", refund_id=str(refund_id), reason=str(error))
            async with self._transactions.begin() as tx:
                await refund_handlers.record_refused_refund(tx, requested, str(error))
            return
        failpoint("payments.after_refund")
        async with self._transactions.begin() as tx:
            await refund_handlers.record_refund(tx, requested, reference)

    async def match_events(self) -> int:
        """Ask the provider which payments a batch of unmatched events is about; returns how many were due."""
        async with self._transactions.begin() as tx:
            unmatched = await provider_events.claim_unmatched(tx.connection, self._provider.name, BATCH, LEASE)
        await self._all(self._match, unmatched)
        return len(unmatched)

    async def _match(self, unmatched: UnmatchedEvent) -> None:
        event = unmatched.event
        payment_id = None
        try:
            payment_id = await self._call("find_payment", self._provider.find_payment(event))
        except Exception as error:  # noqa: BLE001 - reported, and tried again later
            self._report("event_not_matched", error, provider=unmatched.provider, event_id=event.event_id)
        last = unmatched.match_attempts >= MATCH_ATTEMPTS
        retry_in = None if last else UNMATCHED.delay(unmatched.match_attempts, event.event_id)
        async with self._transactions.begin() as tx:
            await event_handlers.record_match(tx, unmatched, payment_id, retry_in)

    async def _call(self, call: str, work: Awaitable[Outcome]) -> Outcome:
        return await call_provider(self._provider.name, call, work)

    async def _all(self, work: Callable[[Work], Awaitable[None]], items: Sequence[Work]) -> None:
        async def one(item: Work) -> None:
            try:
                await work(item)
            except Exception as error:  # noqa: BLE001 - reported; one item must not stop the others, and its lease ends
                self._report("work_failed", error, kind=type(item).__name__)

        async with asyncio.TaskGroup() as group:
            for item in items:
                group.create_task(one(item))

    def _report(self, what: str, error: Exception, **names: str) -> None:
        if isinstance(error, ProviderUnavailable | ProviderRefused):
            log.warning(what, reason=str(error), **names)
            return
        work_failures_total.inc()
        log.error(what, exc_info=error, **names)
