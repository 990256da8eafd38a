"""Files that stock workers return: put into the bucket outside any transaction; the order changes after that.

Each body that carries a file is leased work: one process at a time transfers it, and only that process changes the
order. After a kill or a freeze the next process repeats the transfer, under the same key.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from generation.changes import save_changes
from generation.domain.operator_words import operator_words
from generation.domain.policy import Policy
from generation.domain.provider_events import reported
from generation.domain.provider_reports import JobLost, OutputReturned, Report, UnreadableReport, read_report
from generation.repository.callbacks import LEASES, Carrier, claim_carriers, complete_carrier, get_body
from generation.repository.orders import lock_orders
from generation.returned_files import LONGEST_SECONDS, BucketUnavailable, FileUnreachable, ReturnedFiles, UnusableFile
from generation.wake_ups import WakeUps
from messaging.database import is_unavailable
from messaging.leased_worker import LeasedWorker
from messaging.transaction import Transactions
from service_runtime.backoff import Backoff
from service_runtime.tracing import Origin

_MAX_TRIES: Final = 8
_AT_ONCE: Final = 2
"""Each may need some 40 MB for a moment."""
_BACKOFF: Final = Backoff(first=timedelta(seconds=5), longest=timedelta(minutes=5))
_BUCKET_AWAY: Final = Backoff(first=timedelta(seconds=5), longest=timedelta(seconds=5))
"""A file that a worker has made waits for the bucket, and no try is used up: its order may be delivered late."""
_LONGEST_WAIT: Final = timedelta(days=1)
"""For the bucket, from the arrival of the body."""
_TIMEOUT_SECONDS: Final = LONGEST_SECONDS + 60.0

log = structlog.get_logger(__name__)


class FileTransfers:
    """One per process; ``worker`` runs it."""

    def __init__(self, transactions: Transactions, files: ReturnedFiles, policy: Policy, wake_ups: WakeUps) -> None:
        self._transactions = transactions
        self._files = files
        self._policy = policy
        self._wake_ups = wake_ups

    def worker(self, poll_seconds: float, retry_seconds: float) -> LeasedWorker[Carrier]:
        """The component that claims bodies and transfers their files."""
        return LeasedWorker(
            "file-transfers",
            self._transactions,
            LEASES,
            self.claim,
            self.transfer,
            concurrency=_AT_ONCE,
            poll_seconds=poll_seconds,
            timeout_seconds=_TIMEOUT_SECONDS,
            backoff=_BACKOFF,
            wake=self._wake_ups.file_transfers,
            origin=lambda carrier: Origin(carrier.traceparent, carrier.generation_id),
            retry_seconds=retry_seconds,
        )

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[Carrier]:
        """Claim bodies that are due, in order of arrival."""
        return await claim_carriers(connection, room, lease)

    async def transfer(self, carrier: Carrier) -> None:
        """Put the file into the bucket, and act on the report."""
        last_try = carrier.claim.tries >= _MAX_TRIES
        try:
            await self._act(carrier, await self._store(carrier))
        except UnreadableReport as error:
            log.warning("unreadable_callback", attempt_id=str(carrier.attempt_id), reason=str(error))
            await self._close(carrier, "unreadable")
        except BucketUnavailable as error:
            if carrier.waited > _LONGEST_WAIT:
                await self._lose(carrier, error)
            else:
                await self._postpone(carrier, error, _BUCKET_AWAY, tries=0)
        except FileUnreachable as error:
            if last_try:
                await self._lose(carrier, error)
            else:
                await self._postpone(carrier, error, _BACKOFF)
        except Exception as error:
            if not last_try or is_unavailable(error):
                raise
            log.exception("file_transfer_failed", attempt_id=str(carrier.attempt_id))
            # The order's deadline ends the order.
            await self._close(carrier, "given_up")

    async def _store(self, carrier: Carrier) -> Report:
        """The report, with its file in the bucket; or that its file is unusable."""
        async with self._transactions.begin() as tx:
            body = await get_body(tx.connection, carrier.callback_id)
            locked = await lock_orders(tx.connection, [carrier.generation_id])
        order = locked.orders[carrier.generation_id]
        report = await asyncio.to_thread(read_report, body, order.output_extension)
        if not isinstance(report, OutputReturned):
            return report
        object_key = order.object_key(order.get_attempt(carrier.attempt_id))
        try:
            return await self._files.store(report, object_key, order.max_size_bytes)
        except UnusableFile as error:
            detail = operator_words(str(error))
            return JobLost(job_id=None, code="output_rejected", detail=detail, use=report.use)

    async def _act(self, carrier: Carrier, report: Report) -> None:
        async with self._transactions.begin() as tx:
            # The body before the order, as everywhere.
            if not await complete_carrier(tx.connection, carrier, report.outcome):
                return
            locked = await lock_orders(tx.connection, [carrier.generation_id])
            order = locked.orders[carrier.generation_id]
            reported(
                order, order.get_attempt(carrier.attempt_id), report, self._policy, locked.now, carrier.received_at
            )
            await save_changes(tx, locked, self._wake_ups)

    async def _lose(self, carrier: Carrier, error: Exception) -> None:
        await self._act(carrier, JobLost(job_id=None, code="output_missing", detail=operator_words(str(error))))

    async def _close(self, carrier: Carrier, outcome: str) -> None:
        async with self._transactions.begin() as tx:
            await complete_carrier(tx.connection, carrier, outcome)

    async def _postpone(self, carrier: Carrier, error: Exception, backoff: Backoff, **values: int) -> None:
        delay = backoff.delay(carrier.claim.tries, carrier.callback_id)
        log.warning(
            "returned_file_not_stored",
            attempt_id=str(carrier.attempt_id),
            reason=str(error),
            again_in_seconds=round(delay.total_seconds(), 1),
        )
        async with self._transactions.begin() as tx:
            await LEASES.postpone(tx.connection, carrier.claim, delay, **values)
