"""Acts on what the provider reported: stored bodies are read in order of arrival, by the replica that locks them.

A body that carries a file (or the address of one) is processed by itself: the file is put into the bucket first,
outside any transaction, and the order changes after that.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from generation.changes import save_changes
from generation.domain.policy import Policy
from generation.domain.provider_events import reported
from generation.domain.provider_reports import JobLost, OutputReturned, Report, UnreadableReport, read_report
from generation.metrics import CALLBACKS
from generation.repository.callbacks import (
    Callback,
    extend_lease,
    get_body,
    lock_due_callbacks,
    mark_processed,
    postpone,
)
from generation.repository.orders import LockedOrders, lock_orders
from generation.returned_files import BucketUnavailable, ReturnedFiles, UnusableFile
from generation.wake_ups import WakeUps
from messaging.database import is_unavailable
from messaging.failpoints import failpoint
from messaging.transaction import Transaction, Transactions
from service_runtime.backoff import Backoff

_BATCH: Final = 50
_MAX_TRIES: Final = 8
_FILE_LEASE_SECONDS: Final = 300.0
_BACKOFF: Final = Backoff(first=timedelta(seconds=1), longest=timedelta(minutes=2))
_FILE_BACKOFF: Final = Backoff(first=timedelta(seconds=5), longest=timedelta(seconds=_FILE_LEASE_SECONDS))
_FILES_AT_ONCE: Final = 2
"""Each may hold some 40 MB for a moment."""

log = structlog.get_logger(__name__)


class CallbackProcessor:
    """``process`` is the round of a loop; ``drain`` is called when the service stops."""

    def __init__(self, transactions: Transactions, files: ReturnedFiles, policy: Policy, wake_ups: WakeUps) -> None:
        self._transactions = transactions
        self._files = files
        self._policy = policy
        self._wake_ups = wake_ups
        self._storing: set[asyncio.Task[None]] = set()
        self._file_slots = asyncio.Semaphore(_FILES_AT_ONCE)
        self._batch = _BATCH

    async def process(self) -> None:
        """Process every body that is due. If a batch fails, its bodies are processed one by one."""
        while True:
            try:
                taken = await self._process_batch(self._batch)
            except Exception as error:
                if is_unavailable(error):
                    raise
                if self._batch == 1:
                    await self._postpone_failed(error)
                self._batch = 1
                continue
            if taken < self._batch:
                self._batch = _BATCH
                return

    async def drain(self) -> None:
        """Stop the transfers under way. Their leases end, and another process repeats them."""
        for task in self._storing:
            task.cancel()
        if self._storing:
            await asyncio.wait(self._storing)

    async def _process_batch(self, batch: int) -> int:
        async with self._transactions.begin() as tx:
            callbacks = await lock_due_callbacks(tx.connection, batch)
            if not callbacks:
                return 0
            outcomes, with_file = await self._apply(tx, callbacks)
            await mark_processed(tx.connection, outcomes)
            if with_file:
                await postpone(tx.connection, [one.callback_id for one in with_file], _FILE_LEASE_SECONDS)
            failpoint("callbacks.before_commit")
        failpoint("callbacks.after_commit")
        for callback in callbacks:
            outcome = dict(outcomes).get(callback.callback_id, "carries_file")
            CALLBACKS.labels(callback.source, outcome).inc()
        for callback in with_file:
            task = asyncio.create_task(self._store_file(callback))
            self._storing.add(task)
            task.add_done_callback(self._storing.discard)
        return len(callbacks)

    async def _apply(
        self, tx: Transaction, callbacks: Sequence[Callback]
    ) -> tuple[list[tuple[UUID, str]], list[Callback]]:
        locked = await lock_orders(tx.connection, _orders_of(callbacks))
        outcomes: list[tuple[UUID, str]] = []
        with_file: list[Callback] = []
        for callback in callbacks:
            outcome = self._apply_one(locked, callback)
            if outcome is None:
                with_file.append(callback)
            else:
                outcomes.append((callback.callback_id, outcome))
        await save_changes(tx, locked, self._wake_ups)
        return outcomes, with_file

    def _apply_one(self, locked: LockedOrders, callback: Callback) -> str | None:
        """The outcome of the body, or None if there is a file to be put into the bucket first."""
        order = locked.orders.get(callback.generation_id) if callback.generation_id else None
        attempt = None if order is None else order.find_attempt(callback.attempt_id)
        if order is None or attempt is None:
            return "unknown_attempt"
        if callback.body is None:
            return None
        try:
            report = read_report(callback.body, order.output_extension)
        except UnreadableReport as error:
            log.warning("unreadable_callback", attempt_id=str(callback.attempt_id), reason=str(error))
            return "unreadable"
        if isinstance(report, OutputReturned):
            return None
        reported(order, attempt, report, self._policy, locked.now, callback.received_at)
        return report.outcome

    async def _store_file(self, callback: Callback) -> None:
        try:
            async with self._file_slots:
                report = await self._read_file(callback)
                if report is not None:
                    await self._finish(callback, report)
        except Exception as error:
            # The lease on the body ends, and it is processed again: a few times, unless the database is to blame.
            log.exception("returned_file_failed", attempt_id=str(callback.attempt_id))
            if callback.lease >= _MAX_TRIES and not is_unavailable(error):
                await self._give_up(callback)

    async def _give_up(self, callback: Callback) -> None:
        """Unless another process has the body by now. The order's deadline ends the order."""
        async with self._transactions.begin() as tx:
            if await extend_lease(tx.connection, callback, _FILE_LEASE_SECONDS):
                await mark_processed(tx.connection, [(callback.callback_id, "given_up")])

    async def _read_file(self, callback: Callback) -> Report | None:
        """The report with its file put into the bucket; None if there is none yet, or another process has the body."""
        async with self._transactions.begin() as tx:
            # It may have waited long for a slot.
            if not await extend_lease(tx.connection, callback, _FILE_LEASE_SECONDS):
                return None
            body = await get_body(tx.connection, callback.callback_id)
            locked = await lock_orders(tx.connection, _orders_of([callback]))
        (order,) = locked.orders.values()
        attempt = order.get_attempt(callback.attempt_id)
        try:
            report = await asyncio.to_thread(read_report, body, order.output_extension)
            if not isinstance(report, OutputReturned):
                return report
            return await self._files.store(report, order.object_key(attempt), order.max_size_bytes)
        except UnreadableReport as error:
            log.warning("unreadable_callback", attempt_id=str(callback.attempt_id), reason=str(error))
            async with self._transactions.begin() as tx:
                await mark_processed(tx.connection, [(callback.callback_id, "unreadable")])
            return None
        except UnusableFile as error:
            return JobLost(job_id=None, code="output_rejected", detail=str(error))
        except BucketUnavailable as error:
            if callback.lease >= _MAX_TRIES:
                return JobLost(job_id=None, code="output_missing", detail=str(error))
            pause = _FILE_BACKOFF.seconds(callback.lease, callback.callback_id)
            log.warning(
                "returned_file_not_stored",
                attempt_id=str(callback.attempt_id),
                reason=str(error),
                again_in_seconds=pause,
            )
            async with self._transactions.begin() as tx:
                await extend_lease(tx.connection, callback, pause)
            return None

    async def _finish(self, callback: Callback, report: Report) -> None:
        async with self._transactions.begin() as tx:
            # The body before the order, as everywhere.
            if not await extend_lease(tx.connection, callback, _FILE_LEASE_SECONDS):
                return
            locked = await lock_orders(tx.connection, _orders_of([callback]))
            for order in locked.orders.values():
                attempt = order.get_attempt(callback.attempt_id)
                reported(order, attempt, report, self._policy, locked.now, callback.received_at)
            await save_changes(tx, locked, self._wake_ups)
            await mark_processed(tx.connection, [(callback.callback_id, report.outcome)])

    async def _postpone_failed(self, error: Exception) -> None:
        """The oldest body cannot be processed: let the others pass, and come back to it a few times."""
        async with self._transactions.begin() as tx:
            for callback in await lock_due_callbacks(tx.connection, 1):
                log.error("callback_failed", callback_id=str(callback.callback_id), exc_info=error)
                if callback.tries + 1 < _MAX_TRIES:
                    await postpone(
                        tx.connection, [callback.callback_id], _BACKOFF.seconds(callback.lease, callback.callback_id)
                    )
                else:
                    await mark_processed(tx.connection, [(callback.callback_id, "given_up")])


def _orders_of(callbacks: Sequence[Callback]) -> list[UUID]:
    return [callback.generation_id for callback in callbacks if callback.generation_id is not None]
