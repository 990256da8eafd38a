"""What storage does: it records requested verifications, verifies the files, and records the results."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar

import msgspec
import structlog

from contracts.generation import OutputReady, OutputSought
from contracts.message import Message
from contracts.storage import (
    AssetRejected,
    AssetStored,
    InputsRejected,
    InputsVerified,
    OutputMissing,
    RejectionCode,
    VerifyInputs,
)
from contracts.values import Kind
from messaging.failpoints import failpoint
from messaging.received import Received
from messaging.transaction import Transaction, Transactions
from storage import output_records, repository
from storage.errors import DecoderFailed, Rejected
from storage.intake import Intake
from storage.output_records import NewPreviews
from storage.repository import ClaimedVerification, NewVerification
from storage.verification import Verifier

Request: TypeAlias = OutputReady | OutputSought | VerifyInputs
"""A message that requests the verification of one or several files."""
Refusal: TypeAlias = RejectionCode | Literal["missing"]
"""Why a verification had no good result."""
R = TypeVar("R", bound=Request)
Verified = TypeVar("Verified")

_TYPES: Final[dict[str, type[Request]]] = {one.subject: one for one in (OutputReady, OutputSought, VerifyInputs)}

MAX_DECODER_FAILURES: Final = 3
"""A file on which decoders failed this many times is rejected."""

log = structlog.get_logger(__name__)


def request_verification(intake: Intake) -> Callable[[Transaction, Sequence[Received[R]]], Awaitable[None]]:
    """Build the handler of the requests. It only records them. The worker of ``intake`` verifies the files."""

    async def handle(tx: Transaction, messages: Sequence[Received[R]]) -> None:
        requested = [
            NewVerification(
                message_id=message.message_id,
                subject=message.subject,
                generation_id=message.payload.generation_id,
                user_id=message.payload.user_id,
                payload=msgspec.json.encode(message.payload),
                traceparent=message.traceparent,
            )
            for message in messages
        ]
        await intake.record(tx, requested)

    return handle


@dataclass(frozen=True, slots=True)
class _Work:
    """A claimed verification with its decoded request, which is the cause of the message with the result."""

    claimed: ClaimedVerification
    request: Received[Request]


class VerificationHandler:
    """Verifies the files of claimed verifications and records the results, each behind the fence of its claim.

    ``wake_deletions`` is called when a file was stored whose user has deleted the generation. ``wake_previews`` is
    called when an output was stored of which small pictures are to be made; None if none are.
    """

    def __init__(
        self,
        transactions: Transactions,
        verifier: Verifier,
        wake_deletions: Callable[[], None] = lambda: None,
        wake_previews: Callable[[], None] | None = None,
    ) -> None:
        self._transactions = transactions
        self._verifier = verifier
        self._wake_deletions = wake_deletions
        self._wake_previews = wake_previews

    async def handle(self, claimed: ClaimedVerification, recorded: AssetStored | None) -> Refusal | None:
        """Record the result of one verification and return the refusal, if it is one.

        ``recorded`` is the output that the generation has already: it is the result of every later request.
        Raises ``StoreUnavailable``, ``SignerUnavailable``, ``DecoderFailed``, ``DecoderNotStarted`` or OSError if there
        is no result yet.
        """
        request = _request(claimed)
        work = _Work(claimed, request)
        if recorded is not None:
            await self._record_asset(work, recorded)
            return None
        match request.payload:
            case OutputReady() as ready:
                return await self._handle_output_ready(work, ready)
            case OutputSought() as lookup:
                return await self._handle_output_lookup(work, lookup)
            case VerifyInputs() as order:
                return await self._handle_verify_inputs(work, order)

    async def _handle_output_ready(self, work: _Work, ready: OutputReady) -> Refusal | None:
        reported = ready.claim
        try:
            verification = self._verifier.store_output(ready, reported)
            asset = await _verified(work, reported.object_key, verification)
        except Rejected as rejection:
            rejected = AssetRejected(
                generation_id=ready.generation_id,
                user_id=ready.user_id,
                attempt_id=reported.attempt_id,
                attempt_number=reported.attempt_number,
                code=rejection.code,
                detail=rejection.detail,
            )
            await self._record(work, rejected)
            return rejection.code
        await self._record_asset(work, asset)
        return None

    async def _handle_output_lookup(self, work: _Work, lookup: OutputSought) -> Refusal | None:
        for candidate in lookup.claims:
            try:
                verification = self._verifier.store_output(lookup, candidate)
                asset = await _verified(work, candidate.object_key, verification)
            except Rejected as rejection:
                log.info("lookup_candidate_rejected", generation_id=str(lookup.generation_id), code=rejection.code)
                continue
            await self._record_asset(work, asset)
            return None
        missing = OutputMissing(
            generation_id=lookup.generation_id, user_id=lookup.user_id, sought_version=lookup.version
        )
        await self._record(work, missing)
        return "missing"

    async def _handle_verify_inputs(self, work: _Work, order: VerifyInputs) -> Refusal | None:
        keys: dict[str, str] = {}
        for parameter, upload_id in order.uploads.items():
            try:
                kind: Kind = "video" if parameter in order.clips else "image"
                verification = self._verifier.verify_upload(order.user_id, upload_id, kind, order.clip_duration_ms)
                upload = await _verified(work, str(upload_id), verification)
            except Rejected as rejection:
                rejected = InputsRejected(
                    generation_id=order.generation_id,
                    user_id=order.user_id,
                    parameter=parameter,
                    code=rejection.code,
                    detail=rejection.detail,
                )
                await self._record(work, rejected)
                return rejection.code
            keys[parameter] = upload.object_key
            async with self._transactions.begin() as tx:
                await repository.put_upload(tx.connection, upload)
        verified = InputsVerified(generation_id=order.generation_id, user_id=order.user_id, object_keys=keys)
        await self._record(work, verified)
        return None

    async def _record_asset(self, work: _Work, asset: AssetStored) -> None:
        """Record and announce an output. If the generation has one already, that one is announced again."""
        failpoint("storage.before_record")
        previews = None if self._wake_previews is None else NewPreviews(work.claimed.traceparent)
        if await self._record_first_output(work, asset, previews):
            return
        async with self._transactions.begin() as tx:
            recorded = await output_records.record_output(tx.connection, work.claimed.claim, asset, previews)
            if recorded is None:
                return
            tx.publish(recorded.asset, cause=work.request)
            if self._wake_previews is not None:
                tx.after_commit(self._wake_previews)
            if recorded.is_deleted:
                tx.after_commit(self._wake_deletions)

    async def _record_first_output(self, work: _Work, asset: AssetStored, previews: NewPreviews | None) -> bool:
        """Do it in one statement. False, and nothing is changed: the generation has an output, or the claim is lost."""
        failpoint("lease.before_complete")
        asset = msgspec.structs.replace(asset, stored_at=work.claimed.now())
        values = output_records.output_values(work.claimed.claim, asset, previews, asset.stored_at)
        row = await self._transactions.announce(output_records.RECORD_FIRST_OUTPUT, values, asset, work.request)
        if row is None or row["announced_at"] is None:
            return False
        if self._wake_previews is not None:
            self._wake_previews()
        if row["is_deleted"]:
            self._wake_deletions()
        return True

    async def _record(self, work: _Work, result: Message) -> None:
        async with self._transactions.begin() as tx:
            if await repository.complete(tx.connection, work.claimed.claim, result.subject):
                tx.publish(result, cause=work.request)


async def _verified(work: _Work, file: str, verification: Awaitable[Verified]) -> Verified:
    """Wait for the verification of ``file``. Raises ``Rejected`` once decoders have failed on the file too often."""
    try:
        return await verification
    except DecoderFailed as error:
        if work.claimed.failed_files.count(file) + 1 < MAX_DECODER_FAILURES:
            raise DecoderFailed(str(error), file) from error
        raise Rejected("undecodable", f"decoders failed on this file {MAX_DECODER_FAILURES} times") from error


def _request(claimed: ClaimedVerification) -> Received[Request]:
    """The request as it was received, so that the result names its cause."""
    return Received(
        message_id=claimed.message_id,
        subject=claimed.subject,
        payload=msgspec.json.decode(claimed.payload, type=_TYPES[claimed.subject]),
        correlation_id=claimed.generation_id,
        causation_id=None,
        occurred_at=claimed.requested_at,
        traceparent=claimed.traceparent,
        deliveries=1,
    )
