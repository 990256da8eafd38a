"""What happens when time has passed: deadlines, backoffs, early cancels whose orders have come, old rows to remove.

Each public method is the round of a loop. Any number of replicas may run it: due rows are locked with SKIP LOCKED.
"""

from typing import Final

from generation.changes import save_changes
from generation.domain import lifecycle
from generation.domain.policy import Policy
from generation.repository.callbacks import purge_callbacks
from generation.repository.early_cancels import lock_early_cancels, purge_early_cancels, remove_early_cancels
from generation.repository.orders import lock_orders
from generation.repository.timers import find_due, lock_overdue, lock_retries
from generation.wake_ups import WakeUps
from messaging.database import single_statements
from messaging.transaction import Transactions

_BATCH: Final = 100
_PURGE_BATCH: Final = 500


class Timers:
    """One per process."""

    def __init__(
        self, transactions: Transactions, policy: Policy, callback_retention_seconds: float, wake_ups: WakeUps
    ) -> None:
        self._transactions = transactions
        self._policy = policy
        self._callback_retention_seconds = callback_retention_seconds
        self._wake_ups = wake_ups

    async def process_timers(self) -> None:
        """Act on deadlines that have passed, backoffs that are over, and early cancels whose orders have come."""
        async with single_statements(self._transactions.engine) as connection:
            due = await find_due(connection)
        if due.overdue:
            await self._end_overdue()
        # Before the retries: an order with an early cancel waits like one of those.
        if due.early_cancels:
            await self._apply_early_cancels()
        if due.retries:
            await self._release_retries()

    async def purge(self) -> None:
        """Remove raw bodies and early cancels that are too old to be needed."""
        async with self._transactions.begin() as tx:
            await purge_early_cancels(tx.connection)
        removed = _PURGE_BATCH
        while removed == _PURGE_BATCH:
            async with self._transactions.begin() as tx:
                removed = await purge_callbacks(tx.connection, self._callback_retention_seconds, _PURGE_BATCH)

    async def _end_overdue(self) -> None:
        async with self._transactions.begin() as tx:
            locked = await lock_orders(tx.connection, await lock_overdue(tx.connection, _BATCH))
            for order in locked.orders.values():
                lifecycle.deadline_passed(order, self._policy, locked.now)
            if locked.orders:
                await save_changes(tx, locked, self._wake_ups)

    async def _release_retries(self) -> None:
        async with self._transactions.begin() as tx:
            locked = await lock_orders(tx.connection, await lock_retries(tx.connection, _BATCH))
            for order in locked.orders.values():
                lifecycle.backoff_over(order)
            if locked.orders:
                await save_changes(tx, locked, self._wake_ups)

    async def _apply_early_cancels(self) -> None:
        async with self._transactions.begin() as tx:
            cancels = await lock_early_cancels(tx.connection, _BATCH)
            locked = await lock_orders(tx.connection, cancels)
            for order in locked.orders.values():
                if order.user_id == cancels[order.generation_id]:
                    lifecycle.cancel(order, self._policy, locked.now)
            if locked.orders:
                await remove_early_cancels(tx.connection, sorted(cancels))
                await save_changes(tx, locked, self._wake_ups)
