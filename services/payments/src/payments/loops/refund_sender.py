"""Sends requested refunds to one provider. Each carries its own id, so that sending it twice refunds once."""

from datetime import timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from messaging.failpoints import failpoint
from messaging.transaction import Transactions
from payments.domain.records import RefundRecord
from payments.errors import ProviderRefused, ProviderUnavailable
from payments.handlers.refunds import postpone_refund, record_refund, record_refused_refund
from payments.loops.provider_calls import call_provider
from payments.metrics import work_failures_total
from payments.providers.interface import PaymentProvider
from payments.repository import payments, refunds
from payments.repository.leases import Claimed

log = structlog.get_logger(__name__)


class RefundSender:
    """The work of one provider's ``LeasedWorker`` on refunds."""

    def __init__(self, transactions: Transactions, provider: PaymentProvider) -> None:
        self._transactions = transactions
        self._provider = provider

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> list[Claimed[RefundRecord]]:
        """Claim refunds that are due."""
        return await refunds.claim_refunds(connection, self._provider.name, room, lease)

    async def work(self, claimed: Claimed[RefundRecord]) -> None:
        """Send one refund, and record what the provider says."""
        requested = claimed.row
        refund_id = str(requested.refund_id)
        async with self._transactions.begin() as tx:
            payment = await payments.lock_payment(tx.connection, requested.payment_id)
        sending = self._provider.refund(payment, requested.refund_id, requested.amount_cents)
        try:
            reference = await call_provider(self._provider.name, "refund", sending)
        except ProviderUnavailable as error:
            log.warning("refund_postponed", refund_id=refund_id, reason=str(error))
            async with self._transactions.begin() as tx:
                await postpone_refund(tx, claimed)
            return
        except ProviderRefused as error:
            log.error("refund_refused", refund_id=refund_id, reason=str(error))
            async with self._transactions.begin() as tx:
                await record_refused_refund(tx, claimed, str(error))
            return
        except Exception:
            work_failures_total.inc()
            raise
        failpoint("payments.after_refund")
        async with self._transactions.begin() as tx:
            await record_refund(tx, claimed, reference)
