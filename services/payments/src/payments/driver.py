"""The loops that call providers: between two transactions, never inside one, under a lease and behind a fence."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

import sqlalchemy as sa
import structlog
from prometheus_client import Counter

from messaging.failpoints import failpoint
from messaging.transaction import Transactions
from payments import handlers, repository
from payments.errors import CredentialsRefused, ProviderRefused, ProviderUnavailable
from payments.providers.interface import PaymentProvider, ProviderEvent
from payments.repository import Claim

CALL_SECONDS: Final = 45.0
"""The longest that one call is waited for, with all its pages and retries: one more counts as no answer."""

LEASE: Final = timedelta(seconds=120)
"""Longer than a call and the recording of its outcome."""

BATCH: Final = 8
"""How much is claimed at a time. All of it is called at once: no lease runs out in a queue."""

ROUND_SECONDS: Final = 60.0
ROUND_LIMIT_SECONDS: Final = 300.0
"""A round begins no batch after a minute. A batch takes three calls one after the other, and is never cut short."""

MATCH_ATTEMPTS: Final = 12
"""An event that no payment was found for in twelve tries (about two days) is somebody else's."""

log = structlog.get_logger(__name__)

calls_total = Counter("payments_provider_calls_total", "Calls to payment providers.", ["provider", "call", "outcome"])
failures_total = Counter("payments_work_failures_total", "Items of work that failed unexpectedly.")
events_total = Counter("payments_provider_events_total", "Provider events stored.", ["provider", "source"])

Outcome = TypeVar("Outcome")
Work = TypeVar("Work")


class Driver:
    """Looks up one provider's due payments, opens checkouts, sends ordered refunds and matches events.

    Each provider has its own: one that hangs holds up nobody else.
    """

    def __init__(self, transactions: Transactions, provider: PaymentProvider) -> None:
        self._transactions = transactions
        self._provider = provider

    async def drive(self) -> None:
        """Take what is due now, batch after batch, until there is nothing more or the round is over."""
        end = time.monotonic() + ROUND_SECONDS
        while await self._batch() and time.monotonic() < end:
            pass

    async def _batch(self) -> int:
        return await self._events() + await self._refunds() + await self._payments()

    async def _payments(self) -> int:
        async with self._transactions.begin() as tx:
            claims = await repository.claim_due(tx.connection, self._provider.name, BATCH, LEASE)
        await self._all(self._payment, claims)
        return len(claims)

    async def _payment(self, claim: Claim) -> None:
        try:
            await self._look(claim)
        except ProviderRefused as error:
            log.error("provider_refused", payment_id=str(claim.row.payment_id), reason=str(error))
            async with self._transactions.begin() as tx:
                await handlers.record_refusal(tx, claim, str(error))
        except Exception as error:  # noqa: BLE001 - reported; the oldest due payment must not be the next one again
            self._report("payment_postponed", error, payment_id=str(claim.row.payment_id))
            async with self._transactions.begin() as tx:
                await handlers.postpone(tx, claim)

    async def _look(self, claim: Claim) -> None:
        order = claim.order
        if claim.row.provider_reference is not None:
            snapshot = await self._call("look_up", self._provider.look_up(order))
            failpoint("payments.after_look_up")
            async with self._transactions.begin() as tx:
                await handlers.record_snapshot(tx, claim, snapshot)
        elif claim.row.status == "created":
            checkout = await self._call("open_checkout", self._provider.open_checkout(order))
            failpoint("payments.after_open_checkout")
            async with self._transactions.begin() as tx:
                await handlers.record_checkout(tx, claim, checkout)
        else:
            raise ProviderRefused("news of a payment whose checkout was never opened")

    async def _refunds(self) -> int:
        async with self._transactions.begin() as tx:
            ordered = await repository.claim_refunds(tx.connection, self._provider.name, BATCH, LEASE)
        await self._all(self._refund, ordered)
        return len(ordered)

    async def _refund(self, ordered: sa.Row[Any]) -> None:
        async with self._transactions.begin() as tx:
            row = await repository.lock_payment(tx.connection, ordered.payment_id)
        order = Claim(row, row.fence).order
        try:
            sending = self._provider.refund(order, ordered.refund_id, ordered.amount_cents)
            reference = await self._call("refund", sending)
        except ProviderUnavailable as error:
            self._report("refund_postponed", error, refund_id=str(ordered.refund_id))
            return
        except ProviderRefused as error:
            log.error("refund_refused", refund_id=str(ordered.refund_id), reason=str(error))
            async with self._transactions.begin() as tx:
                await handlers.record_refused_refund(tx, ordered, str(error))
            return
        failpoint("payments.after_refund")
        async with self._transactions.begin() as tx:
            await handlers.record_refund(tx, ordered, reference)

    async def _events(self) -> int:
        async with self._transactions.begin() as tx:
            unmatched = await repository.claim_unmatched(tx.connection, self._provider.name, BATCH, LEASE)
        await self._all(self._match, unmatched)
        return len(unmatched)

    async def _match(self, row: sa.Row[Any]) -> None:
        event = ProviderEvent(row.event_id, row.event_type, None, row.reference, row.body)
        payment_id = None
        try:
            payment_id = await self._call("find_payment", self._provider.find_payment(event))
        except Exception as error:  # noqa: BLE001 - reported, and tried again later
            self._report("event_not_matched", error, provider=row.provider, event_id=row.event_id)
        last = row.match_attempts >= MATCH_ATTEMPTS
        retry_in = None if last else timedelta(seconds=min(10 * 3 ** min(row.match_attempts, 8), 6 * 3600))
        async with self._transactions.begin() as tx:
            await handlers.record_match(tx, row, payment_id, retry_in)

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
        failures_total.inc()
        log.error(what, exc_info=error, **names)

    async def _call(self, call: str, work: Awaitable[Outcome]) -> Outcome:
        outcome = "ok"
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await work
        except TimeoutError as error:
            outcome = "unavailable"
            raise ProviderUnavailable(f"{call}: no answer in {CALL_SECONDS:g} s") from error
        except CredentialsRefused as error:
            outcome = "denied"
            log.error("credentials_refused", provider=self._provider.name, call=call, reason=str(error))
            raise
        except ProviderUnavailable:
            outcome = "unavailable"
            raise
        except ProviderRefused:
            outcome = "refused"
            raise
        except Exception:
            outcome = "unreadable"
            raise
        finally:
            calls_total.labels(self._provider.name, call, outcome).inc()
