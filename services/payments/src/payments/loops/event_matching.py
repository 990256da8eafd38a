"""Asks one provider which payments its unmatched events are about."""

from datetime import timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from messaging.transaction import Transactions
from payments.domain.snapshots import ProviderEvent
from payments.errors import ProviderRefused, ProviderUnavailable
from payments.handlers.provider_events import record_match
from payments.loops.provider_calls import call_provider
from payments.metrics import work_failures_total
from payments.providers.interface import PaymentProvider
from payments.repository import provider_events
from payments.repository.leases import Claimed

log = structlog.get_logger(__name__)


class EventMatching:
    """The work of one provider's ``LeasedWorker`` on events."""

    def __init__(self, transactions: Transactions, provider: PaymentProvider) -> None:
        self._transactions = transactions
        self._provider = provider

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> list[Claimed[ProviderEvent]]:
        """Claim events that are due."""
        return await provider_events.claim_unmatched(connection, self._provider.name, room, lease)

    async def work(self, claimed: Claimed[ProviderEvent]) -> None:
        """Ask about one event and record the answer; after an error the event is tried again, or given up."""
        payment_id = None
        try:
            finding = self._provider.find_payment(claimed.row)
            payment_id = await call_provider(self._provider.name, "find_payment", finding)
        except (ProviderUnavailable, ProviderRefused) as error:
            log.warning("event_not_matched", event_id=claimed.row.event_id, reason=str(error))
        except Exception as error:
            work_failures_total.inc()
            log.error("event_not_matched", event_id=claimed.row.event_id, exc_info=error)
        async with self._transactions.begin() as tx:
            await record_match(tx, claimed, payment_id)
