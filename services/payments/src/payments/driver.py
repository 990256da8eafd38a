"""The loops that call providers: between two transactions, never inside one, under a lease and behind a fence."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

import sqlalchemy as sa
import structlog
from prometheus_client import Counter

from contracts.payments import Provider
from messaging.failpoints import failpoint
from messaging.transaction import Transactions
from payments import handlers, repository
from payments.domain import Review
from payments.errors import ProviderRefused, ProviderUnavailable
from payments.providers.interface import PaymentProvider, ProviderEvent
from payments.repository import Claim

LEASE: Final = timedelta(seconds=60)
"""Longer than any one look: the slowest is a Stripe look of three calls at 20 s each, which is then repeated."""

BATCH: Final = 32
CONCURRENT_CALLS: Final = 8
MATCH_ATTEMPTS: Final = 12
"""An event that no payment was found for in twelve tries (about two days) is somebody else's."""

log = structlog.get_logger(__name__)

calls_total = Counter("payments_provider_calls_total", "Calls to payment providers.", ["provider", "call", "outcome"])
failures_total = Counter("payments_work_failures_total", "Items of work that failed unexpectedly.")
events_total = Counter("payments_provider_events_total", "Provider events stored.", ["provider", "source"])

Outcome = TypeVar("Outcome")
Work = TypeVar("Work")


class Driver:
    """Looks up due payments, opens checkouts, sends ordered refunds and matches events, until there is nothing due."""

    def __init__(self, transactions: Transactions, providers: Mapping[Provider, PaymentProvider]) -> None:
        self._transactions = transactions
        self._providers = providers
        self._calls = asyncio.Semaphore(CONCURRENT_CALLS)

    async def drive(self) -> None:
        """Take everything that is due now, batch after batch."""
        while await self._events() + await self._refunds() + await self._payments():
            pass

    async def _payments(self) -> int:
        async with self._transactions.begin() as tx:
            claims = await repository.claim_due(tx.connection, BATCH, LEASE)
        await self._all(self._payment, claims)
        return len(claims)

    async def _payment(self, claim: Claim) -> None:
        try:
            provider = self._provider(claim.row.provider)
            if claim.row.provider_reference is None:
                await self._open_checkout(provider, claim)
            else:
                order = claim.order
                snapshot = await self._call(provider, "look_up", lambda: provider.look_up(order))
                failpoint("payments.after_look_up")
                async with self._transactions.begin() as tx:
                    await handlers.record_snapshot(tx, claim, snapshot)
        except ProviderUnavailable as error:
            log.warning("provider_unavailable", payment_id=str(claim.row.payment_id), reason=str(error))
            async with self._transactions.begin() as tx:
                await handlers.postpone(tx, claim)
        except ProviderRefused as error:
            log.error("provider_refused", payment_id=str(claim.row.payment_id), reason=str(error))
            async with self._transactions.begin() as tx:
                await self._give_up(tx, claim, str(error))

    async def _open_checkout(self, provider: PaymentProvider, claim: Claim) -> None:
        if claim.row.status != "created":
            raise ProviderRefused("news of a payment whose checkout was never opened")
        order = claim.order
        checkout = await self._call(provider, "open_checkout", lambda: provider.open_checkout(order))
        failpoint("payments.after_open_checkout")
        async with self._transactions.begin() as tx:
            await handlers.record_checkout(tx, claim, checkout)

    async def _give_up(self, tx: Any, claim: Claim, reason: str) -> None:
        """A refusal to open a checkout ends the payment; any other is for a person, and looked at again tomorrow."""
        if claim.row.status == "created":
            await handlers.record_failure(tx, claim, reason)
            return
        await handlers.open_review(tx, claim.row.payment_id, Review("no_checkout", claim.row.status, reason))
        await repository.schedule_look(tx.connection, claim, None)

    async def _refunds(self) -> int:
        async with self._transactions.begin() as tx:
            ordered = await repository.claim_refunds(tx.connection, BATCH, LEASE)
        await self._all(self._refund, ordered)
        return len(ordered)

    async def _refund(self, ordered: sa.Row[Any]) -> None:
        async with self._transactions.begin() as tx:
            row = await repository.lock_payment(tx.connection, ordered.payment_id)
        order = Claim(row, row.fence).order
        try:
            provider = self._provider(ordered.provider)
            reference = await self._call(
                provider, "refund", lambda: provider.refund(order, ordered.refund_id, ordered.amount_cents)
            )
        except ProviderUnavailable as error:
            log.warning("refund_postponed", refund_id=str(ordered.refund_id), reason=str(error))
            return
        except ProviderRefused as error:
            async with self._transactions.begin() as tx:
                await repository.fail_refund(tx.connection, ordered.refund_id, str(error))
            log.error("refund_refused", refund_id=str(ordered.refund_id), reason=str(error))
            return
        failpoint("payments.after_refund")
        async with self._transactions.begin() as tx:
            await repository.confirm_refund(tx.connection, ordered.refund_id, reference)
            await repository.hint_payments(tx.connection, [ordered.payment_id])

    async def _events(self) -> int:
        async with self._transactions.begin() as tx:
            unmatched = await repository.claim_unmatched(tx.connection, BATCH, LEASE)
        await self._all(self._match, unmatched)
        return len(unmatched)

    async def _match(self, row: sa.Row[Any]) -> None:
        event = ProviderEvent(row.event_id, row.event_type, None, row.reference, row.body)
        payment_id = None
        try:
            provider = self._provider(row.provider)
            payment_id = await self._call(provider, "find_payment", lambda: provider.find_payment(event))
        except (ProviderUnavailable, ProviderRefused) as error:
            log.warning("event_not_matched", provider=row.provider, event_id=row.event_id, reason=str(error))
        last = row.match_attempts >= MATCH_ATTEMPTS
        retry_in = None if last else timedelta(seconds=min(10 * 3 ** min(row.match_attempts, 8), 6 * 3600))
        async with self._transactions.begin() as tx:
            await handlers.record_match(tx, row, payment_id, retry_in)

    def _provider(self, name: Provider) -> PaymentProvider:
        provider = self._providers.get(name)
        if provider is None:
            raise ProviderUnavailable(f"{name} is not configured here")
        return provider

    async def _all(self, work: Callable[[Work], Awaitable[None]], items: Sequence[Work]) -> None:
        async def one(item: Work) -> None:
            async with self._calls:
                try:
                    await work(item)
                except Exception:
                    # One item that nobody foresaw must not stop the others; its lease brings it back in a minute.
                    failures_total.inc()
                    log.exception("work_failed", kind=type(item).__name__)

        async with asyncio.TaskGroup() as group:
            for item in items:
                group.create_task(one(item))

    async def _call(self, provider: PaymentProvider, call: str, work: Callable[[], Awaitable[Outcome]]) -> Outcome:
        outcome = "ok"
        try:
            return await work()
        except ProviderUnavailable:
            outcome = "unavailable"
            raise
        except ProviderRefused:
            outcome = "refused"
            raise
        finally:
            calls_total.labels(provider.name, call, outcome).inc()
