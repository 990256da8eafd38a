"""Asks once a second, in one statement, what is due, and wakes the loops that have something to do.

What this process begins itself it wakes them for at once. The rest comes with time, or from other replicas.
"""

from generation.repository.sweep import find_due
from generation.wake_ups import WakeUps
from messaging.database import single_statements
from messaging.transaction import Transactions


class Sweep:
    """``wake_due`` is the round of a loop."""

    def __init__(self, transactions: Transactions, wake_ups: WakeUps) -> None:
        self._transactions = transactions
        self._wake_ups = wake_ups

    async def wake_due(self) -> None:
        """Wake the loops that have something to do. Mostly there is nothing."""
        async with single_statements(self._transactions.engine) as connection:
            due = await find_due(connection)
        wake_ups = self._wake_ups
        if due.endpoints:
            wake_ups.dispatch_at(due.endpoints)
        for is_due, event in (
            (due.callbacks, wake_ups.callbacks),
            (due.file_transfers, wake_ups.file_transfers),
            (due.checks, wake_ups.checks),
            (due.cancels, wake_ups.cancels),
            (due.timers, wake_ups.timers),
        ):
            if is_due:
                event.set()
