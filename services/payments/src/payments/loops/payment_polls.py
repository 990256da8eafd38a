"""Polls due payments at one provider, and opens the checkouts of new ones."""

from datetime import timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from messaging.failpoints import failpoint
from messaging.transaction import Transactions
from payments.domain.records import PaymentRecord
from payments.errors import ProviderRefused, ProviderUnavailable
from payments.handlers.polls import postpone, record_checkout, record_refusal, record_snapshot
from payments.loops.provider_calls import call_provider
from payments.metrics import work_failures_total
from payments.providers.interface import PaymentProvider
from payments.repository import payments
from payments.repository.leases import Claimed

log = structlog.get_logger(__name__)


class PaymentPolls:
    """The work of one provider's ``LeasedWorker`` on payments."""

    def __init__(self, transactions: Transactions, provider: PaymentProvider) -> None:
        self._transactions = transactions
        self._provider = provider

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> list[Claimed[PaymentRecord]]:
        """Claim payments that are due."""
        return await payments.claim_due(connection, self._provider.name, room, lease)

    async def work(self, claimed: Claimed[PaymentRecord]) -> None:
        """Call the provider about one payment, and record what came of it."""
        payment_id = str(claimed.row.payment_id)
        try:
            await self._poll(claimed)
        except ProviderRefused as error:
            log.error("provider_refused", payment_id=payment_id, reason=str(error))
            async with self._transactions.begin() as tx:
                await record_refusal(tx, claimed, str(error))
        except Exception as error:
            if isinstance(error, ProviderUnavailable):
                log.warning("payment_postponed", payment_id=payment_id, reason=str(error))
            else:
                work_failures_total.inc()
                log.error("payment_postponed", payment_id=payment_id, exc_info=error)
            async with self._transactions.begin() as tx:
                await postpone(tx, claimed)

    async def _poll(self, claimed: Claimed[PaymentRecord]) -> None:
        payment, name = claimed.row, self._provider.name
        if payment.provider_reference is not None:
            snapshot = await call_provider(name, "look_up", self._provider.look_up(payment))
            failpoint("payments.after_look_up")
            async with self._transactions.begin() as tx:
                await record_snapshot(tx, claimed, snapshot)
        elif payment.status == "created":
            checkout = await call_provider(name, "open_checkout", self._provider.open_checkout(payment))
            failpoint("payments.after_open_checkout")
            async with self._transactions.begin() as tx:
                await record_checkout(tx, claimed, checkout)
        else:
            raise ProviderRefused("an event of a payment whose checkout was never opened")
