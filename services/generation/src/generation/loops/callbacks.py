"""Acts on what was stored alone: bodies are read in order of arrival, by the replica that locks them.

Those are the provider's answers when it is polled, and webhooks that could not be acted on at once
(``callback_intake``).

A body that carries a file (or the address of one) is left to ``loops.file_transfers``.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from generation.changes import save_changes
from generation.domain.policy import Policy
from generation.domain.provider_events import reported
from generation.domain.provider_reports import OutputReturned, UnreadableReport, read_report
from generation.metrics import CALLBACKS
from generation.repository.callbacks import (
    MOST_TOGETHER,
    Callback,
    lock_due_callbacks,
    mark_carriers,
    mark_processed,
    postpone,
)
from generation.repository.orders import LockedOrders, lock_orders
from generation.wake_ups import WakeUps
from messaging.database import is_contended, is_unavailable
from messaging.failpoints import failpoint
from messaging.transaction import Transaction, Transactions
from service_runtime.backoff import Backoff
from service_runtime.tracing import batch_span

_MAX_TRIES: Final = 8
_BACKOFF: Final = Backoff(first=timedelta(seconds=1), longest=timedelta(minutes=2))
_CARRIES_FILE: Final = "carries_file"

log = structlog.get_logger(__name__)


class CallbackProcessor:
    """``process`` is the round of a loop."""

    def __init__(self, transactions: Transactions, policy: Policy, wake_ups: WakeUps) -> None:
        self._transactions = transactions
        self._policy = policy
        self._wake_ups = wake_ups
        self._batch = MOST_TOGETHER

    async def process(self) -> None:
        """Process every body that is due. If a batch fails, its bodies are processed one by one."""
        while True:
            try:
                taken = await self._process_batch(self._batch)
            except Exception as error:
                # A locked order delays its own body alone.
                if is_unavailable(error) and not is_contended(error):
                    raise
                if self._batch == 1:
                    await self._postpone_failed(error)
                self._batch = 1
                continue
            if taken < self._batch:
                self._batch = MOST_TOGETHER
                return

    async def _process_batch(self, batch: int) -> int:
        async with self._transactions.begin() as tx:
            callbacks = await lock_due_callbacks(tx.connection, batch)
            if not callbacks:
                return 0
            outcomes = await self._apply(tx, callbacks)
            await self._record(tx, outcomes)
            failpoint("callbacks.before_commit")
        failpoint("callbacks.after_commit")
        for callback, outcome in zip(callbacks, outcomes.values(), strict=True):
            CALLBACKS.labels(callback.source, outcome).inc()
        return len(callbacks)

    async def _apply(self, tx: Transaction, callbacks: Sequence[Callback]) -> dict[UUID, str]:
        """The outcome of each body, in their order."""
        generation_ids = [one.generation_id for one in callbacks if one.generation_id is not None]
        locked = await lock_orders(tx.connection, generation_ids)
        with batch_span("apply provider reports", [order.traceparent for order in locked.orders.values()]):
            outcomes = {callback.callback_id: self._apply_one(locked, callback) for callback in callbacks}
            await save_changes(tx, locked, self._wake_ups)
        return outcomes

    def _apply_one(self, locked: LockedOrders, callback: Callback) -> str:
        order = locked.orders.get(callback.generation_id) if callback.generation_id else None
        attempt = None if order is None else order.find_attempt(callback.attempt_id)
        if order is None or attempt is None:
            return "unknown_attempt"
        if callback.body is None:
            return _CARRIES_FILE
        try:
            report = read_report(callback.body, order.output_extension)
        except UnreadableReport as error:
            log.warning("unreadable_callback", attempt_id=str(callback.attempt_id), reason=str(error))
            return "unreadable"
        if isinstance(report, OutputReturned):
            return _CARRIES_FILE
        reported(order, attempt, report, self._policy, locked.now, callback.received_at)
        return report.outcome

    async def _record(self, tx: Transaction, outcomes: dict[UUID, str]) -> None:
        carriers = [callback_id for callback_id, outcome in outcomes.items() if outcome == _CARRIES_FILE]
        processed = [(callback_id, outcome) for callback_id, outcome in outcomes.items() if outcome != _CARRIES_FILE]
        await mark_processed(tx.connection, processed)
        if carriers:
            await mark_carriers(tx.connection, carriers)
            tx.after_commit(self._wake_ups.file_transfers.set)

    async def _postpone_failed(self, error: Exception) -> None:
        """The oldest body cannot be processed: let the others pass, and come back to it a few times."""
        async with self._transactions.begin() as tx:
            for callback in await lock_due_callbacks(tx.connection, 1):
                tries = callback.tries + 1
                log.error("callback_failed", callback_id=str(callback.callback_id), tries=tries, exc_info=error)
                if tries < _MAX_TRIES or is_contended(error):
                    await postpone(tx.connection, callback.callback_id, _BACKOFF.seconds(tries, callback.callback_id))
                else:
                    await mark_processed(tx.connection, [(callback.callback_id, "given_up")])
