"""The leased work of storage: which verifications are claimed, and what happens if one has no result yet."""

import time
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from messaging.database import is_unavailable
from messaging.failpoints import failpoint
from messaging.leased_worker import LeasedWorker
from messaging.transaction import Transactions
from service_runtime.backoff import Backoff
from service_runtime.tracing import Origin
from storage import repository
from storage.due_work import OUTPUT_SUBJECTS, SELDOM
from storage.errors import DecoderFailed, SignerUnavailable, StoreUnavailable
from storage.handlers import VerificationHandler
from storage.intake import Intake, Work
from storage.metrics import (
    failures_total,
    oldest_open_seconds,
    open_verifications,
    postponed_total,
    verification_seconds,
    verifications_total,
)
from storage.repository import ClaimedVerification
from storage.tables import VERIFICATIONS

MAX_VERIFICATION_SECONDS: Final = 600.0
"""Fetch, decode and write all files of one request: 256 MB at half a megabyte per second."""
BACKOFF: Final = Backoff(first=timedelta(seconds=1), longest=timedelta(minutes=1))
STORE_AWAY: Final = Backoff(first=timedelta(seconds=1), longest=timedelta(seconds=5))
"""As loops and consumers: so soon after the return of the object store files go on.

However many files wait, there are as many tries at a time as slots, and a store without an answer keeps each for a
second at least.
"""

log = structlog.get_logger(__name__)


class Verifications:
    """The verifications of some ``subjects`` as leased work."""

    def __init__(self, transactions: Transactions, handler: VerificationHandler, subjects: Collection[str]) -> None:
        self._transactions = transactions
        self._handler = handler
        self._subjects = subjects

    def worker(self, name: str, concurrency: int, poll_seconds: float, intake: Intake) -> LeasedWorker[Work]:
        """The component that works on them, ``concurrency`` at a time."""
        worker = LeasedWorker(
            name,
            self._transactions,
            VERIFICATIONS,
            self.claim,
            self.work,
            concurrency=concurrency,
            poll_seconds=poll_seconds * SELDOM,
            retry_seconds=poll_seconds,
            timeout_seconds=MAX_VERIFICATION_SECONDS,
            backoff=BACKOFF,
            wake=intake.wake_up,
            origin=_origin,
        )
        intake.attach(worker)
        return worker

    async def claim(self, connection: AsyncConnection, room: int, lease: timedelta) -> Sequence[Work]:
        """Claim due verifications, each with the output that its generation has already."""
        claimed = await repository.claim_due(connection, self._subjects, room, lease)
        made = {one.generation_id for one in claimed if one.has_output and one.subject in OUTPUT_SUBJECTS}
        recorded = await repository.find_assets(connection, made) if made else {}
        return [
            Work(one, recorded.get(one.generation_id) if one.subject in OUTPUT_SUBJECTS else None) for one in claimed
        ]

    async def work(self, work: Work) -> None:
        """Verify and record, or postpone. An unexpected error is raised, and ``LeasedWorker`` postpones, too."""
        verification = work.verification
        request = verification.subject.split(".")[2]
        started = time.monotonic()
        try:
            refusal = await self._handler.handle(verification, work.recorded)
        except (StoreUnavailable, SignerUnavailable, DecoderFailed) as error:
            postponed_total.inc()
            reason = f"{type(error).__name__}: {error}"
            log.warning("verification_postponed", generation_id=str(verification.generation_id), reason=reason)
            await self._postpone(verification, error)
        except Exception as error:
            if not is_unavailable(error):
                failures_total.inc()
            raise
        else:
            verifications_total.labels(request, "ok" if refusal is None else "refused", refusal or "").inc()
            failpoint("storage.after_record")
        verification_seconds.labels(request).observe(time.monotonic() - started)

    async def _postpone(self, verification: ClaimedVerification, error: Exception) -> None:
        claim = verification.claim
        failed_files = verification.failed_files
        if isinstance(error, DecoderFailed) and error.file is not None:
            failed_files += (error.file,)
        backoff = STORE_AWAY if isinstance(error, StoreUnavailable) else BACKOFF
        async with self._transactions.begin() as tx:
            await repository.postpone(tx.connection, claim, backoff.delay(claim.tries, claim.key), failed_files)


def _origin(work: Work) -> Origin:
    verification = work.verification
    return Origin(verification.traceparent, verification.generation_id, verification.user_id)


async def measure(transactions: Transactions) -> None:
    """Set the gauges."""
    async with transactions.begin() as tx:
        found = await repository.count_open(tx.connection)
    open_verifications.set(found.count)
    oldest_open_seconds.set(found.oldest_seconds)
