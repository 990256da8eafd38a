"""Asks in one statement what is due at all providers, and wakes the workers that have something to do.

What this process begins itself it wakes them for at once. The rest comes with time, from operators, or from replicas.
"""

from collections.abc import Collection

from contracts.payments import Provider
from messaging.database import single_statements
from messaging.transaction import Transactions
from payments.repository.due_work import find_due
from payments.wake_ups import WakeUps


class DueWork:
    """``wake_workers`` is the round of a loop."""

    def __init__(self, transactions: Transactions, providers: Collection[Provider], wake_ups: WakeUps) -> None:
        self._transactions = transactions
        self._providers = providers
        self._wake_ups = wake_ups

    async def wake_workers(self) -> None:
        """Wake the workers that have something to do. Mostly there is nothing."""
        async with single_statements(self._transactions.engine) as connection:
            due = await find_due(connection, self._providers)
        wake_ups = self._wake_ups
        for providers, workers in (
            (due.polls, wake_ups.polls),
            (due.refunds, wake_ups.refunds),
            (due.events, wake_ups.events),
        ):
            for provider in providers:
                workers[provider].set()
