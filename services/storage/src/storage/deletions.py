"""Deleting: every file of a generation that its user deleted leaves the library.

A request is recorded, and carried out as leased work. All that lies in the generation's folder goes, so that no
leftover of a lost race stays. A deletion is for good: when a file is stored later, because an attempt that was given
up delivered after all, the transaction that records the file makes the deletion due again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.object_keys import library_folder
from contracts.storage import DeleteFiles, FilesDeleted
from messaging.failpoints import failpoint
from messaging.leased_worker import LeasedWorker
from messaging.received import Received
from messaging.transaction import Transaction, Transactions
from service_runtime.backoff import Backoff
from service_runtime.tracing import Origin
from storage import repository
from storage.due_work import SELDOM
from storage.errors import StoreUnavailable
from storage.metrics import deletions_total, oldest_deletion_seconds
from storage.object_store import ObjectStore
from storage.repository import ClaimedDeletion, NewDeletion
from storage.tables import DELETIONS

CONCURRENCY: Final = 4
BACKOFF: Final = Backoff(first=timedelta(seconds=1), longest=timedelta(minutes=10))
MAX_DELETION_SECONDS: Final = 60.0

log = structlog.get_logger(__name__)


def request_deletion(
    wake: Callable[[], None],
) -> Callable[[Transaction, Sequence[Received[DeleteFiles]]], Awaitable[None]]:
    """Build the handler of the requests. It only records them. ``wake`` wakes the worker, which removes the files."""

    async def handle(tx: Transaction, messages: Sequence[Received[DeleteFiles]]) -> None:
        requested = [
            NewDeletion(
                generation_id=message.payload.generation_id,
                user_id=message.payload.user_id,
                message_id=message.message_id,
                traceparent=message.traceparent,
                requested_at=message.payload.requested_at,
            )
            for message in messages
        ]
        await repository.add_deletions(tx.connection, requested)
        tx.after_commit(wake)

    return handle


class Deletions:
    """Deletions as leased work. ``now`` is the time that is recorded, in seconds since 1970."""

    def __init__(self, transactions: Transactions, store: ObjectStore, now: Callable[[], float] = time.time) -> None:
        self._transactions = transactions
        self._store = store
        self._now = now

    def worker(self, poll_seconds: float, wake: asyncio.Event) -> LeasedWorker[ClaimedDeletion]:
        """The component that carries them out."""
        return LeasedWorker(
            "deletions",
            self._transactions,
            DELETIONS,
            self.claim,
            self.work,
            concurrency=CONCURRENCY,
            poll_seconds=poll_seconds * SELDOM,
            retry_seconds=poll_seconds,
            timeout_seconds=MAX_DELETION_SECONDS,
            backoff=BACKOFF,
            wake=wake,
            origin=lambda one: Origin(one.traceparent, one.generation_id, one.user_id),
        )

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[ClaimedDeletion]:
        """Claim due deletions."""
        return await repository.claim_deletions(connection, room, lease)

    async def work(self, deletion: ClaimedDeletion) -> None:
        """Remove every file of the generation and announce it, or postpone it if the store is not available."""
        try:
            folder = library_folder(deletion.user_id, deletion.generation_id)
            failpoint("storage.before_delete")
            removed = await self._store.delete_folder(folder)
            failpoint("storage.after_delete")
        except StoreUnavailable as error:
            log.warning("deletion_postponed", generation_id=str(deletion.generation_id), reason=str(error))
            claim = deletion.claim
            async with self._transactions.begin() as tx:
                await DELETIONS.postpone(tx.connection, claim, BACKOFF.delay(claim.tries, claim.key))
            return
        await self._record(deletion)
        log.info("files_deleted", generation_id=str(deletion.generation_id), objects=removed)

    async def _record(self, deletion: ClaimedDeletion) -> None:
        deleted_at = datetime.fromtimestamp(self._now(), UTC)
        event = FilesDeleted(generation_id=deletion.generation_id, user_id=deletion.user_id, deleted_at=deleted_at)
        async with self._transactions.begin() as tx:
            if await repository.complete_deletion(tx.connection, deletion.claim, deleted_at):
                tx.publish(event, cause=_request(deletion))
                tx.after_commit(deletions_total.inc)


def _request(deletion: ClaimedDeletion) -> Received[DeleteFiles]:
    """The request as it was received, so that the event names its cause."""
    return Received(
        message_id=deletion.message_id,
        subject=DeleteFiles.subject,
        payload=DeleteFiles(
            generation_id=deletion.generation_id, user_id=deletion.user_id, requested_at=deletion.requested_at
        ),
        correlation_id=deletion.generation_id,
        causation_id=None,
        occurred_at=deletion.requested_at,
        traceparent=deletion.traceparent,
        deliveries=1,
    )


async def measure(transactions: Transactions) -> None:
    """Set the gauge."""
    async with transactions.begin() as tx:
        oldest_deletion_seconds.set(await repository.measure_deletions(tx.connection))
