"""How the gateway learns what happened elsewhere: every message becomes changes to the read models.

One handler takes a whole batch, whatever messages are in it. So the entries of a user's history keep the order of
arrival, and locks are always taken in one order: users by id first, then what belongs to them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from contracts.billing import (
    CreditsCaptured,
    CreditsClawedBack,
    CreditsExpired,
    CreditsGranted,
    CreditsRefused,
    CreditsReleased,
    CreditsReserved,
    LedgerHeadPublished,
    RefusalCode,
)
from contracts.generation import (
    AttemptFailed,
    GenerationCancelled,
    GenerationCancelling,
    GenerationCompleted,
    GenerationDispatched,
    GenerationFailed,
    GenerationQueued,
    GenerationStarted,
    OutputReady,
)
from contracts.message import Message
from contracts.payments import Payment, PaymentChanged, PaymentRefused
from contracts.storage import AssetStored, FilesDeleted, PreviewsStored
from contracts.values import LedgerLine
from gateway import projections
from gateway.events import (
    BalanceUpdated,
    FailureCode,
    GenerationEventName,
    GenerationUpdated,
    HistoryEvent,
    PaymentUpdated,
)
from gateway.projections import GenerationChange, HistoryEntry, RunningCancel, Transition, Verdict
from gateway.records import StoredFile, StoredPreviews
from gateway.statuses import status_of_refusal
from messaging.ids import derived_id
from messaging.received import Received
from messaging.transaction import Transaction

Notify = Callable[[set[UUID]], None]
"""Called after the commit with the users whose history grew."""


@dataclass
class Changes:
    """What a batch of messages does to the read models."""

    verdicts: list[Verdict] = field(default_factory=list)
    refusals: dict[UUID, RefusalCode] = field(default_factory=dict)
    lines: list[LedgerLine] = field(default_factory=list)
    generations: dict[UUID, GenerationChange] = field(default_factory=dict)
    balances: dict[UUID, tuple[int, HistoryEntry]] = field(default_factory=dict)
    """For each user the highest line, and the entry that carries the balance after it."""
    payments: list[Payment] = field(default_factory=list)
    refused_payments: list[PaymentRefused] = field(default_factory=list)
    running_cancels: list[RunningCancel] = field(default_factory=list)
    missed_starts: list[UUID] = field(default_factory=list)
    ledger_heads: list[LedgerHeadPublished] = field(default_factory=list)
    history: list[HistoryEntry] = field(default_factory=list)

    def generation(self, generation_id: UUID) -> GenerationChange:
        """The change of one generation so far."""
        return self.generations.setdefault(generation_id, GenerationChange(generation_id))

    def record(self, message: Received[Any], user_id: UUID, event: GenerationUpdated | PaymentUpdated) -> None:
        """Add an entry about a generation or a payment to its owner's history."""
        subject_id = event.generation_id if isinstance(event, GenerationUpdated) else event.payment_id
        self.history.append(_entry(message, message.message_id, user_id, subject_id, event))

    def post(self, message: Received[Any], lines: Sequence[LedgerLine]) -> None:
        """Add the statement lines of a message, and the balance after the highest line of the batch."""
        if not lines:
            return
        self.lines += lines
        last = max(lines, key=lambda line: line.line_number)
        if last.user_id in self.balances and last.line_number < self.balances[last.user_id][0]:
            return
        event = BalanceUpdated(
            name="balance_updated",
            available_credits=last.available_after_credits,
            reserved_credits=last.reserved_after_credits,
            receivable_credits=last.receivable_after_credits,
            line_number=last.line_number,
            reason=last.reason,
        )
        # The message has another entry: this one needs an id of its own.
        entry_id = derived_id(message.message_id, "balance")
        self.balances[last.user_id] = last.line_number, _entry(message, entry_id, last.user_id, None, event)


def _entry(
    message: Received[Any], entry_id: UUID, user_id: UUID, subject_id: UUID | None, event: HistoryEvent
) -> HistoryEntry:
    data = msgspec.json.encode(event).decode()
    return HistoryEntry(user_id, entry_id, subject_id, event.event, event.name, data, message.occurred_at)


class Projector:
    """The handler of every message; ``notify`` wakes the event streams of the users whose history grew."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify

    async def project(self, tx: Transaction, messages: Sequence[Received[Any]]) -> None:
        """Bring the read models up to date with ``messages``."""
        changes = Changes()
        for message in await self._defer_early_completions(tx, messages):
            REACTIONS[type(message.payload)](changes, message)
        # Another replica may have recorded a later balance already: then this one is left out of the history.
        moved = await projections.add_lines(tx.connection, changes.lines)
        history = [*changes.history, *(entry for user_id, (_, entry) in changes.balances.items() if user_id in moved)]
        if history:
            await projections.append_history(tx.connection, history)
        await projections.record_verdicts(tx.connection, changes.verdicts)
        await projections.refuse_generations(tx.connection, changes.refusals)
        await projections.update_generations(tx.connection, changes.generations.values())
        await projections.count_running_cancels(tx.connection, changes.running_cancels)
        await projections.count_missed_starts(tx.connection, changes.missed_starts)
        await projections.advance_payments(tx.connection, changes.payments)
        await projections.refuse_payments(tx.connection, changes.refused_payments)
        await projections.add_ledger_heads(tx.connection, changes.ledger_heads)
        tx.after_commit(lambda: self._notify({entry.user_id for entry in history}))

    async def _defer_early_completions(self, tx: Transaction, messages: Sequence[Received[Any]]) -> list[Received[Any]]:
        """The messages without the completions whose file is not known yet: ``completed`` always has a download."""
        completions = {m.payload.generation_id for m in messages if isinstance(m.payload, GenerationCompleted)}
        completions -= {m.payload.generation_id for m in messages if isinstance(m.payload, AssetStored)}
        early = await projections.list_without_file(tx.connection, completions) if completions else set()
        for message in messages:
            if isinstance(message.payload, GenerationCompleted) and message.payload.generation_id in early:
                tx.defer(message, "storage's word on the file has not arrived")
        return [message for message in messages if message.message_id not in tx.deferred]


def _reserved(changes: Changes, message: Received[CreditsReserved]) -> None:
    order = message.payload.order
    changes.verdicts.append(Verdict(order.generation_id, "reserved"))
    event = GenerationUpdated(generation_id=order.generation_id, name="credits_reserved")
    changes.record(message, order.user_id, event)
    changes.post(message, (message.payload.line,))


def _refused(changes: Changes, message: Received[CreditsRefused]) -> None:
    refused = message.payload
    changes.verdicts.append(
        Verdict(refused.generation_id, refused.code, refused.required_credits, refused.available_credits)
    )
    changes.refusals[refused.generation_id] = refused.code
    status = status_of_refusal(refused.code)
    event = GenerationUpdated(
        generation_id=refused.generation_id,
        name=status,
        status=status,
        version=0,
        code=refused.code if status == "refused" else UNSET,
    )
    changes.record(message, refused.user_id, event)


def _captured(changes: Changes, message: Received[CreditsCaptured]) -> None:
    captured = message.payload
    changes.generation(captured.generation_id).captured_credits = captured.captured_credits
    event = GenerationUpdated(
        generation_id=captured.generation_id, name="credits_captured", captured_credits=captured.captured_credits
    )
    changes.record(message, captured.user_id, event)
    changes.post(message, captured.lines)


def _released(changes: Changes, message: Received[CreditsReleased]) -> None:
    released = message.payload
    changes.generation(released.generation_id).released_credits = released.released_credits
    event = GenerationUpdated(
        generation_id=released.generation_id, name="credits_released", released_credits=released.released_credits
    )
    changes.record(message, released.user_id, event)
    changes.post(message, released.lines)


def _granted(changes: Changes, message: Received[CreditsGranted]) -> None:
    granted = message.payload
    if granted.payment_id is not None:
        event = PaymentUpdated(payment_id=granted.payment_id, name="credits_granted", credits=granted.amount_credits)
        changes.record(message, granted.user_id, event)
    changes.post(message, granted.lines)


def _clawed_back(changes: Changes, message: Received[CreditsClawedBack]) -> None:
    taken = message.payload
    event = PaymentUpdated(payment_id=taken.payment_id, name="credits_clawed_back", credits=taken.clawed_back_credits)
    changes.record(message, taken.user_id, event)
    changes.post(message, taken.lines)


def _expired(changes: Changes, message: Received[CreditsExpired]) -> None:
    changes.post(message, message.payload.lines)


def _head_published(changes: Changes, message: Received[LedgerHeadPublished]) -> None:
    changes.ledger_heads.append(message.payload)


def _transition(
    changes: Changes,
    message: Received[Any],
    transition: Transition,
    name: GenerationEventName,
    *,
    code: FailureCode | UnsetType = UNSET,
    detail: str | UnsetType = UNSET,
    retry_at: datetime | UnsetType | None = UNSET,
    late: bool | UnsetType = UNSET,
    captured_credits: int | UnsetType = UNSET,
) -> None:
    """The generation moves to another status; its owner's history calls that ``name``."""
    generation_id = message.payload.generation_id
    changes.generation(generation_id).add(transition)
    event = GenerationUpdated(
        generation_id=generation_id,
        name=name,
        status=transition.status,
        version=transition.version,
        attempt_number=UNSET if transition.attempt_number is None else transition.attempt_number,
        code=code,
        detail=detail,
        retry_at=retry_at,
        late=late,
        captured_credits=captured_credits,
    )
    changes.record(message, message.payload.user_id, event)


def _queued(changes: Changes, message: Received[GenerationQueued]) -> None:
    _transition(changes, message, Transition(message.payload.version, "queued"), "queued")


def _dispatched(changes: Changes, message: Received[GenerationDispatched]) -> None:
    event = message.payload
    transition = Transition(event.version, "dispatching", attempt_number=event.attempt_number)
    _transition(changes, message, transition, "dispatching")


def _started(changes: Changes, message: Received[GenerationStarted]) -> None:
    event = message.payload
    transition = Transition(event.version, "running", attempt_number=event.attempt_number)
    _transition(changes, message, transition, "running")


def _attempt_failed(changes: Changes, message: Received[AttemptFailed]) -> None:
    event = message.payload
    transition = Transition(event.version, "queued", attempt_number=event.attempt_number)
    _transition(changes, message, transition, "attempt_failed", code=event.code, retry_at=event.retry_at)


def _output_ready(changes: Changes, message: Received[OutputReady]) -> None:
    event = message.payload
    attempt_number = event.claim.attempt_number
    if not event.late:
        transition = Transition(event.version, "storing", attempt_number=attempt_number)
        _transition(changes, message, transition, "storing")
        return
    # The order stays as it ended, unless storage finds the file to be good.
    late = GenerationUpdated(
        generation_id=event.generation_id,
        name="late_output_ready",
        version=event.version,
        attempt_number=attempt_number,
    )
    changes.record(message, event.user_id, late)


def _completed(changes: Changes, message: Received[GenerationCompleted]) -> None:
    event = message.payload
    transition = Transition(
        event.version,
        "completed",
        attempt_number=event.attempt_number,
        late=event.late,
        completed_at=event.completed_at,
    )
    changes.generation(event.generation_id).charged_credits = event.capture_credits
    _transition(changes, message, transition, "completed", late=event.late, captured_credits=event.capture_credits)


def _failed(changes: Changes, message: Received[GenerationFailed]) -> None:
    event = message.payload
    if event.code == "not_started_in_time":
        changes.missed_starts.append(event.generation_id)
    transition = Transition(event.version, "failed", failure_code=event.code, failure_detail=event.detail)
    _transition(changes, message, transition, "failed", code=event.code, detail=event.detail)


def _cancelling(changes: Changes, message: Received[GenerationCancelling]) -> None:
    event = message.payload
    # A worker had it. Mostly the cancel has been counted when it was asked for.
    changes.running_cancels.append(RunningCancel(event.generation_id, event.user_id, message.occurred_at))
    _transition(changes, message, Transition(event.version, "cancelling"), "cancelling")


def _cancelled(changes: Changes, message: Received[GenerationCancelled]) -> None:
    _transition(changes, message, Transition(message.payload.version, "cancelled"), "cancelled")


def _asset_stored(changes: Changes, message: Received[AssetStored]) -> None:
    asset = message.payload
    changes.generation(asset.generation_id).file = StoredFile(
        object_key=asset.object_key,
        poster_object_key=asset.poster_object_key,
        size_bytes=asset.size_bytes,
        sha256=asset.sha256,
        media=asset.media,
    )
    event = GenerationUpdated(generation_id=asset.generation_id, name="asset_stored")
    changes.record(message, asset.user_id, event)


def _previews_stored(changes: Changes, message: Received[PreviewsStored]) -> None:
    stored = message.payload
    changes.generation(stored.generation_id).previews = StoredPreviews(stored.thumbnails, stored.animated_preview)
    event = GenerationUpdated(generation_id=stored.generation_id, name="previews_stored")
    changes.record(message, stored.user_id, event)


def _files_deleted(changes: Changes, message: Received[FilesDeleted]) -> None:
    event = GenerationUpdated(generation_id=message.payload.generation_id, name="deleted")
    changes.record(message, message.payload.user_id, event)


def _payment_changed(changes: Changes, message: Received[PaymentChanged]) -> None:
    payment, reason = message.payload.payment, message.payload.reason
    changes.payments.append(payment)
    event = PaymentUpdated(
        payment_id=payment.payment_id,
        name=f"payment_{reason}",
        status=payment.status,
        version=payment.version,
        reason=reason,
    )
    changes.record(message, payment.user_id, event)


def _payment_refused(changes: Changes, message: Received[PaymentRefused]) -> None:
    refused = message.payload
    changes.refused_payments.append(refused)
    event = PaymentUpdated(
        payment_id=refused.payment_id, name="payment_refused", status="refused", version=0, reason=refused.code
    )
    changes.record(message, refused.user_id, event)


REACTIONS: Final[dict[type[Message], Callable[[Changes, Received[Any]], None]]] = {
    CreditsReserved: _reserved,
    CreditsRefused: _refused,
    CreditsCaptured: _captured,
    CreditsReleased: _released,
    CreditsGranted: _granted,
    CreditsClawedBack: _clawed_back,
    CreditsExpired: _expired,
    LedgerHeadPublished: _head_published,
    GenerationQueued: _queued,
    GenerationDispatched: _dispatched,
    GenerationStarted: _started,
    AttemptFailed: _attempt_failed,
    OutputReady: _output_ready,
    GenerationCompleted: _completed,
    GenerationFailed: _failed,
    GenerationCancelling: _cancelling,
    GenerationCancelled: _cancelled,
    AssetStored: _asset_stored,
    PreviewsStored: _previews_stored,
    FilesDeleted: _files_deleted,
    PaymentChanged: _payment_changed,
    PaymentRefused: _payment_refused,
}
