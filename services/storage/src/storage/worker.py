"""The loop that works off what was asked: claim, look outside any transaction, record behind the fence."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from typing import Any, Final, TypeVar

import msgspec
import sqlalchemy as sa
import structlog
from prometheus_client import Counter, Gauge, Histogram

from contracts.generation import OutputReady, OutputSought
from contracts.registry import BY_SUBJECT
from contracts.storage import AssetRejected, AssetStored, InputsRejected, InputsVerified, OutputMissing, VerifyInputs
from messaging.database import is_unavailable
from messaging.failpoints import failpoint
from messaging.received import Received
from messaging.transaction import Transactions
from storage import handlers, repository
from storage.errors import DecoderFailed, Rejected, StoreUnavailable
from storage.verification import Verifier

Found = TypeVar("Found")

LEASE: Final = timedelta(seconds=20)
"""How long the work of a worker that was killed rests. A living one extends it every ``LEASE_BEAT_SECONDS``."""
LEASE_BEAT_SECONDS: Final = 5.0
LONGEST_LOOK_SECONDS: Final = 600.0
"""Fetch, decode and write of everything that one question names: 256 MB at half a megabyte per second."""
LONGEST_PAUSE_SECONDS: Final = 60
OUTPUT_QUESTIONS: Final = (OutputReady.subject, OutputSought.subject)
INPUT_QUESTIONS: Final = (VerifyInputs.subject,)
DECODER_FAILURES: Final = 3
"""A file that took the decoder down three times is the reason."""

log = structlog.get_logger(__name__)

answers_total = Counter("storage_answers_total", "Verifications answered.", ["question", "answer", "code"])
postponed_total = Counter("storage_postponed_total", "Verifications put off because something was unavailable.")
failures_total = Counter("storage_failures_total", "Verifications that failed unexpectedly.")
look_seconds = Histogram("storage_look_seconds", "From claim to answer.", ["question"])
open_questions = Gauge("storage_open_questions", "Questions that are not answered yet.")
oldest_question_seconds = Gauge("storage_oldest_question_seconds", "Age of the oldest open question.")


class Worker:
    """Works off due verifications of some ``subjects``, ``concurrency`` at a time; a freed place is filled at once."""

    def __init__(
        self,
        transactions: Transactions,
        verifier: Verifier,
        subjects: Collection[str],
        concurrency: int,
        wake: asyncio.Event,
    ) -> None:
        self._transactions = transactions
        self._verifier = verifier
        self._subjects = subjects
        self._concurrency = concurrency
        self._wake = wake
        self._running: dict[asyncio.Task[None], sa.Row[Any]] = {}

    async def work(self) -> None:
        """Start as much as there is room for and due. Called at every wake-up."""
        while (room := self._concurrency - len(self._running)) > 0:
            if await self._start(room) < room:
                return

    async def _start(self, room: int) -> int:
        async with self._transactions.begin() as tx:
            claims = await repository.claim_due(tx.connection, self._subjects, room, LEASE)
            # A generation has one output: once it stands, every further question is answered with it.
            ids = {claim.generation_id for claim in claims if claim.subject in OUTPUT_QUESTIONS}
            standing = await repository.find_assets(tx.connection, ids) if ids else {}
        for claim in claims:
            task = asyncio.create_task(self._one(claim, standing.get(claim.generation_id)))
            self._running[task] = claim
            task.add_done_callback(self._done)
        return len(claims)

    async def keep_leases(self) -> None:
        """Extend the leases of what is under way, however long it takes."""
        if self._running:
            async with self._transactions.begin() as tx:
                await repository.extend_leases(tx.connection, list(self._running.values()), LEASE)

    async def stop(self) -> None:
        """End what is under way, and give it back: another worker takes it at once."""
        running = dict(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if running:
            async with self._transactions.begin() as tx:
                await repository.release(tx.connection, list(running.values()))

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if len(self._running) == self._concurrency - 1:
            # There was no room for what else may be due.
            self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            # Nothing could be recorded, the database being away: the lease runs out, and the work is done again.
            log.error("verification_lost", exc_info=task.exception())

    async def _one(self, claim: sa.Row[Any], standing: AssetStored | None) -> None:
        asked = _received(claim)
        started = time.monotonic()
        try:
            async with asyncio.timeout(LONGEST_LOOK_SECONDS):
                await self._answer(claim, asked, standing)
            failpoint("storage.after_record")
        except (StoreUnavailable, DecoderFailed, TimeoutError) as error:
            postponed_total.inc()
            reason = f"{type(error).__name__}: {error}"
            log.warning("verification_postponed", generation_id=str(claim.generation_id), reason=reason)
            await self._postpone(claim, error.file if isinstance(error, DecoderFailed) else None)
        except Exception as error:
            if is_unavailable(error):
                raise
            failures_total.inc()
            log.exception("verification_failed", generation_id=str(claim.generation_id))
            await self._postpone(claim)
        look_seconds.labels(type(asked.payload).__name__).observe(time.monotonic() - started)

    async def _postpone(self, claim: sa.Row[Any], failed_file: str | None = None) -> None:
        delay = timedelta(seconds=min(2 ** min(claim.tries, 10) / 2, LONGEST_PAUSE_SECONDS))
        async with self._transactions.begin() as tx:
            await repository.postpone(tx.connection, claim, delay, failed_file)

    async def _answer(self, claim: sa.Row[Any], asked: Received[Any], standing: AssetStored | None) -> None:
        answers: dict[type, Callable[[sa.Row[Any], Received[Any]], Awaitable[str]]] = {
            OutputReady: self._output_ready,
            OutputSought: self._output_sought,
            VerifyInputs: self._verify_inputs,
        }
        code = ""
        if standing is not None and claim.subject in OUTPUT_QUESTIONS:
            await self._record(claim, standing, asked)
        else:
            code = await answers[type(asked.payload)](claim, asked)
        answers_total.labels(type(asked.payload).__name__, "ok" if code == "" else "refused", code).inc()

    async def _output_ready(self, claim: sa.Row[Any], asked: Received[OutputReady]) -> str:
        ready = asked.payload
        try:
            asset = await self._look(claim, ready.claim.object_key, self._verifier.store_output(ready, ready.claim))
        except Rejected as rejection:
            refusal = AssetRejected(
                generation_id=ready.generation_id,
                user_id=ready.user_id,
                attempt_id=ready.claim.attempt_id,
                attempt_number=ready.claim.attempt_number,
                code=rejection.code,
                detail=rejection.detail,
            )
            async with self._transactions.begin() as tx:
                await handlers.record_answer(tx, claim, refusal, asked)
            return rejection.code
        await self._record(claim, asset, asked)
        return ""

    async def _output_sought(self, claim: sa.Row[Any], asked: Received[OutputSought]) -> str:
        sought = asked.payload
        for candidate in sought.claims:
            try:
                asset = await self._look(claim, candidate.object_key, self._verifier.store_output(sought, candidate))
            except Rejected as rejection:
                log.info("sought_output_rejected", generation_id=str(sought.generation_id), code=rejection.code)
                continue
            await self._record(claim, asset, asked)
            return ""
        missing = OutputMissing(
            generation_id=sought.generation_id, user_id=sought.user_id, sought_version=sought.version
        )
        async with self._transactions.begin() as tx:
            await handlers.record_answer(tx, claim, missing, asked)
        return "missing"

    async def _verify_inputs(self, claim: sa.Row[Any], asked: Received[VerifyInputs]) -> str:
        order = asked.payload
        keys: dict[str, str] = {}
        for parameter, upload_id in order.uploads.items():
            try:
                look = self._verifier.look_at_upload(order.user_id, upload_id)
                upload = await self._look(claim, str(upload_id), look)
            except Rejected as rejection:
                refusal = InputsRejected(
                    generation_id=order.generation_id,
                    user_id=order.user_id,
                    parameter=parameter,
                    code=rejection.code,
                    detail=rejection.detail,
                )
                async with self._transactions.begin() as tx:
                    await handlers.record_answer(tx, claim, refusal, asked)
                return rejection.code
            keys[parameter] = upload.key
            async with self._transactions.begin() as tx:
                await repository.put_upload(
                    tx.connection,
                    upload_id,
                    order.user_id,
                    upload.key,
                    upload.fetched.size_bytes,
                    upload.fetched.sha256,
                    upload.inspection.media,
                )
        verified = InputsVerified(generation_id=order.generation_id, user_id=order.user_id, object_keys=keys)
        async with self._transactions.begin() as tx:
            await handlers.record_answer(tx, claim, verified, asked)
        return ""

    async def _record(self, claim: sa.Row[Any], asset: AssetStored, asked: Received[Any]) -> None:
        failpoint("storage.before_record")
        async with self._transactions.begin() as tx:
            await handlers.record_asset(tx, claim, asset, asked)

    async def _look(self, claim: sa.Row[Any], file: str, look: Awaitable[Found]) -> Found:
        try:
            return await look
        except DecoderFailed as error:
            if claim.failed_files.count(file) + 1 < DECODER_FAILURES:
                error.file = file
                raise
            raise Rejected("undecodable", "the decoder failed on this file again and again") from error


async def measure(transactions: Transactions) -> None:
    """Set the gauges."""
    async with transactions.begin() as tx:
        count, seconds = await repository.count_open(tx.connection)
    open_questions.set(count)
    oldest_question_seconds.set(seconds)


def _received(claim: sa.Row[Any]) -> Received[Any]:
    """The question as it came, so that the answer names its cause."""
    return Received(
        message_id=claim.message_id,
        subject=claim.subject,
        payload=msgspec.json.decode(claim.payload, type=BY_SUBJECT[claim.subject]),
        correlation_id=claim.generation_id,
        causation_id=None,
        occurred_at=claim.asked_at,
        traceparent=claim.traceparent,
        deliveries=1,
    )
