"""The loop that claims verifications, verifies outside any transaction, and keeps the leases of work in progress."""

import asyncio
import time
from collections.abc import Collection
from datetime import timedelta
from typing import Final

import structlog

from contracts.generation import OutputReady, OutputSought
from contracts.storage import AssetStored, VerifyInputs
from messaging.database import is_unavailable
from messaging.failpoints import failpoint
from messaging.transaction import Transactions
from service_runtime.backoff import Backoff
from service_runtime.loops import Every, every
from storage import repository
from storage.errors import DecoderFailed, StoreUnavailable
from storage.handlers import VerificationHandler
from storage.metrics import (
    failures_total,
    oldest_open_seconds,
    open_verifications,
    postponed_total,
    verification_seconds,
    verifications_total,
)
from storage.repository import ClaimedVerification

LEASE: Final = timedelta(seconds=20)
"""How long the work of a killed worker rests. A living worker extends it every ``HEARTBEAT_SECONDS``."""
HEARTBEAT_SECONDS: Final = 5.0
MAX_VERIFICATION_SECONDS: Final = 600.0
"""Fetch, decode and write all files of one request: 256 MB at half a megabyte per second."""
RETRY: Final = Backoff(first=timedelta(seconds=1), longest=timedelta(minutes=1))
OUTPUT_SUBJECTS: Final = (OutputReady.subject, OutputSought.subject)
INPUT_SUBJECTS: Final = (VerifyInputs.subject,)

log = structlog.get_logger(__name__)


class Worker:
    """Processes due verifications of some ``subjects``, ``concurrency`` at a time. It fills a free slot at once."""

    def __init__(
        self,
        name: str,
        transactions: Transactions,
        handler: VerificationHandler,
        subjects: Collection[str],
        concurrency: int,
        wake: asyncio.Event,
    ) -> None:
        self._name = name
        self._transactions = transactions
        self._handler = handler
        self._subjects = subjects
        self._concurrency = concurrency
        self._wake = wake
        self._running: dict[asyncio.Task[None], ClaimedVerification] = {}

    def components(self, poll_seconds: float) -> list[Every]:
        """The loops of this worker. Without a wake-up, it looks for due work every ``poll_seconds``."""
        return [
            every(self._name, poll_seconds, self.start_due, wake=self._wake),
            every(f"{self._name}-leases", HEARTBEAT_SECONDS, self.extend_leases),
        ]

    async def start_due(self) -> None:
        """Start due verifications until all slots are taken. Called at every wake-up."""
        while (slots := self._concurrency - len(self._running)) > 0:
            if await self._start(slots) < slots:
                return

    async def _start(self, slots: int) -> int:
        async with self._transactions.begin() as tx:
            claimed = await repository.claim_due(tx.connection, self._subjects, slots, LEASE)
            # A generation has one output. Once it is recorded, it is the result of every later request.
            ids = {one.generation_id for one in claimed if one.subject in OUTPUT_SUBJECTS}
            recorded = await repository.find_assets(tx.connection, ids) if ids else {}
        for one in claimed:
            asset = recorded.get(one.generation_id) if one.subject in OUTPUT_SUBJECTS else None
            task = asyncio.create_task(self._process(one, asset))
            self._running[task] = one
            task.add_done_callback(self._finished)
        return len(claimed)

    async def extend_leases(self) -> None:
        """Extend the leases of the work in progress, however long it takes."""
        if self._running:
            async with self._transactions.begin() as tx:
                await repository.extend_leases(tx.connection, self._running.values(), LEASE)

    async def stop(self) -> None:
        """Cancel the work in progress and give it back: another worker can claim it at once."""
        running = dict(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if running:
            async with self._transactions.begin() as tx:
                await repository.release(tx.connection, running.values())

    def _finished(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if len(self._running) == self._concurrency - 1:
            # All slots were taken, so more work may be due.
            self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            # The database was unavailable. The lease expires, and the work is done again.
            log.error("verification_lost", exc_info=task.exception())

    async def _process(self, claimed: ClaimedVerification, recorded: AssetStored | None) -> None:
        request = claimed.subject.split(".")[2]
        started = time.monotonic()
        try:
            async with asyncio.timeout(MAX_VERIFICATION_SECONDS):
                refusal = await self._handler.handle(claimed, recorded)
            verifications_total.labels(request, "ok" if refusal is None else "refused", refusal or "").inc()
            failpoint("storage.after_record")
        except (StoreUnavailable, DecoderFailed, TimeoutError) as error:
            postponed_total.inc()
            reason = f"{type(error).__name__}: {error}"
            log.warning("verification_postponed", generation_id=str(claimed.generation_id), reason=reason)
            await self._postpone(claimed, error.file if isinstance(error, DecoderFailed) else None)
        except Exception as error:
            if is_unavailable(error):
                raise
            failures_total.inc()
            log.exception("verification_failed", generation_id=str(claimed.generation_id))
            await self._postpone(claimed)
        verification_seconds.labels(request).observe(time.monotonic() - started)

    async def _postpone(self, claimed: ClaimedVerification, failed_file: str | None = None) -> None:
        delay = RETRY.delay(claimed.tries, claimed.message_id)
        async with self._transactions.begin() as tx:
            await repository.postpone(tx.connection, claimed, delay, failed_file)


async def measure(transactions: Transactions) -> None:
    """Set the gauges."""
    async with transactions.begin() as tx:
        found = await repository.count_open(tx.connection)
    open_verifications.set(found.count)
    oldest_open_seconds.set(found.oldest_seconds)
