"""How the gateway learns what happened elsewhere: every message becomes changes to the read models.

One handler takes a whole batch, whatever is in it: so the entries of a user's history keep the order of arrival, and
the locks are always taken in one order (users by id first, then what is theirs).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import msgspec

from contracts.billing import (
    CreditsCaptured,
    CreditsClawedBack,
    CreditsExpired,
    CreditsGranted,
    CreditsRefused,
    CreditsReleased,
    CreditsReserved,
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
from contracts.storage import AssetStored
from contracts.values import LedgerLine
from gateway import projections
from gateway.projections import Activity, GenerationNews, Step
from messaging.ids import derived_id
from messaging.received import Received
from messaging.transaction import Transaction

Notify = Callable[[set[UUID]], None]
"""Called after the commit with the users whose history grew."""


@dataclass
class Changes:
    """What a batch of messages does to the read models."""

    verdicts: list[dict[str, Any]] = field(default_factory=list)
    refusals: dict[UUID, str] = field(default_factory=dict)
    lines: list[LedgerLine] = field(default_factory=list)
    generations: dict[UUID, GenerationNews] = field(default_factory=dict)
    balances: dict[UUID, tuple[int, Activity]] = field(default_factory=dict)
    """For each user the highest line, and the entry that tells the balance after it."""
    payments: list[Payment] = field(default_factory=list)
    refused_payments: list[PaymentRefused] = field(default_factory=list)
    history: list[Activity] = field(default_factory=list)

    def about(self, generation_id: UUID) -> GenerationNews:
        """What is known about a generation so far."""
        return self.generations.setdefault(generation_id, GenerationNews(generation_id))

    def tell(self, message: Received[Any], subject_id: UUID, event: str, name: str, **told: Any) -> None:
        """Add an entry about a generation or a payment to its owner's history."""
        kind = event.partition(".")[0]
        user_id = _owner(message.payload)
        data = _json({"name": name, **told, f"{kind}_id": subject_id})
        self.history.append(Activity(user_id, message.message_id, subject_id, event, name, data, message.occurred_at))

    def move(self, message: Received[Any], lines: Sequence[LedgerLine]) -> None:
        """Add the statement lines of a message, and the balance after the highest of the batch."""
        if not lines:
            return
        self.lines += lines
        last = max(lines, key=lambda line: line.line_number)
        if last.line_number < self.balances.get(last.user_id, (0,))[0]:
            return
        data = _json(
            {
                "name": "balance_updated",
                "available_credits": last.available_after_credits,
                "reserved_credits": last.reserved_after_credits,
                "receivable_credits": last.receivable_after_credits,
                "line_number": last.line_number,
                "reason": last.reason,
            }
        )
        # The message has another entry: this one needs an id of its own.
        own = derived_id(message.message_id, "balance")
        event = "balance.updated"
        entry = Activity(last.user_id, own, None, event, "balance_updated", data, message.occurred_at)
        self.balances[last.user_id] = last.line_number, entry


class Projector:
    """The handler; ``notify`` wakes the event streams of the users that something happened to."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify

    async def project(self, tx: Transaction, messages: Sequence[Received[Any]]) -> None:
        """Bring the read models up to date with ``messages``."""
        changes = Changes()
        for message in await self._in_time(tx, messages):
            REACTIONS[type(message.payload)](changes, message)
        # Another replica may have told a later balance already: then this one is not told any more.
        moved = await projections.add_lines(tx.connection, changes.lines)
        history = [*changes.history, *(entry for user_id, (_, entry) in changes.balances.items() if user_id in moved)]
        if history:
            await projections.append_history(tx.connection, history)
        await projections.record_verdicts(tx.connection, changes.verdicts)
        await projections.refuse_generations(tx.connection, changes.refusals)
        await projections.update_generations(tx.connection, changes.generations.values())
        await projections.advance_payments(tx.connection, changes.payments)
        await projections.refuse_payments(tx.connection, changes.refused_payments)
        tx.after_commit(lambda: self._notify({entry.user_id for entry in history}))

    async def _in_time(self, tx: Transaction, messages: Sequence[Received[Any]]) -> list[Received[Any]]:
        """Without the completions whose file is not known yet: who reads 'completed' is to find a download."""
        completions = {m.payload.generation_id for m in messages if isinstance(m.payload, GenerationCompleted)}
        completions -= {m.payload.generation_id for m in messages if isinstance(m.payload, AssetStored)}
        early = await projections.list_without_file(tx.connection, completions) if completions else set()
        for message in messages:
            if isinstance(message.payload, GenerationCompleted) and message.payload.generation_id in early:
                tx.defer(message, "storage's word on the file has not arrived")
        return [message for message in messages if message.message_id not in tx.deferred]


def _json(told: dict[str, Any]) -> str:
    return msgspec.json.encode(told).decode()


def _owner(payload: Any) -> UUID:
    if isinstance(payload, CreditsReserved):
        return payload.order.user_id
    user_id: UUID = payload.payment.user_id if isinstance(payload, PaymentChanged) else payload.user_id
    return user_id


def _reserved(changes: Changes, message: Received[CreditsReserved]) -> None:
    generation_id = message.payload.order.generation_id
    changes.verdicts.append(_verdict(generation_id, "reserved", None, None))
    changes.tell(message, generation_id, "generation.updated", "credits_reserved")
    changes.move(message, (message.payload.line,))


def _refused(changes: Changes, message: Received[CreditsRefused]) -> None:
    payload = message.payload
    said = _verdict(payload.generation_id, payload.code, payload.required_credits, payload.available_credits)
    changes.verdicts.append(said)
    changes.refusals[payload.generation_id] = payload.code
    changes.tell(
        message, payload.generation_id, "generation.updated", "refused", status="refused", version=0, code=payload.code
    )


def _captured(changes: Changes, message: Received[CreditsCaptured]) -> None:
    payload = message.payload
    changes.about(payload.generation_id).facts["captured_credits"] = payload.captured_credits
    told = {"captured_credits": payload.captured_credits}
    changes.tell(message, payload.generation_id, "generation.updated", "credits_captured", **told)
    changes.move(message, payload.lines)


def _released(changes: Changes, message: Received[CreditsReleased]) -> None:
    payload = message.payload
    changes.about(payload.generation_id).facts["released_credits"] = payload.released_credits
    told = {"released_credits": payload.released_credits}
    changes.tell(message, payload.generation_id, "generation.updated", "credits_released", **told)
    changes.move(message, payload.lines)


def _granted(changes: Changes, message: Received[CreditsGranted]) -> None:
    payload = message.payload
    if payload.payment_id is not None:
        changes.tell(message, payload.payment_id, "payment.updated", "credits_granted", credits=payload.amount_credits)
    changes.move(message, payload.lines)


def _clawed_back(changes: Changes, message: Received[CreditsClawedBack]) -> None:
    payload = message.payload
    told = {"credits": payload.clawed_back_credits}
    changes.tell(message, payload.payment_id, "payment.updated", "credits_clawed_back", **told)
    changes.move(message, payload.lines)


def _expired(changes: Changes, message: Received[CreditsExpired]) -> None:
    changes.move(message, message.payload.lines)


def _verdict(generation_id: UUID, said: str, required: int | None, had: int | None) -> dict[str, Any]:
    return {"of_generation": generation_id, "said": said, "required": required, "had": had}


def _step(changes: Changes, message: Received[Any], step: Step, name: str | None = None, **told: Any) -> None:
    """The generation moves to another state; its owner is told that state under ``name``, by default its own."""
    generation_id = message.payload.generation_id
    changes.about(generation_id).add(step)
    if step.attempt_number is not None:
        told["attempt_number"] = step.attempt_number
    event = "generation.updated"
    moved = {"status": step.status, "version": step.version, **told}
    changes.tell(message, generation_id, event, name or step.status, **moved)


def _queued(changes: Changes, message: Received[GenerationQueued]) -> None:
    _step(changes, message, Step(message.payload.version, "queued"))


def _dispatched(changes: Changes, message: Received[GenerationDispatched]) -> None:
    event = message.payload
    step = Step(event.version, "dispatching", attempt_number=event.attempt_number)
    _step(changes, message, step)


def _started(changes: Changes, message: Received[GenerationStarted]) -> None:
    event = message.payload
    _step(changes, message, Step(event.version, "running", attempt_number=event.attempt_number))


def _attempt_failed(changes: Changes, message: Received[AttemptFailed]) -> None:
    event = message.payload
    step = Step(event.version, "queued", attempt_number=event.attempt_number)
    _step(changes, message, step, "attempt_failed", code=event.code, retry_at=event.retry_at)


def _output_ready(changes: Changes, message: Received[OutputReady]) -> None:
    event = message.payload
    number = event.claim.attempt_number
    if event.late:
        # The order stays ended as it is, unless storage finds the file to be good.
        told = {"version": event.version, "attempt_number": number}
        changes.tell(message, event.generation_id, "generation.updated", "late_output_ready", **told)
    else:
        _step(changes, message, Step(event.version, "storing", attempt_number=number))


def _completed(changes: Changes, message: Received[GenerationCompleted]) -> None:
    event = message.payload
    step = Step(
        event.version,
        "completed",
        attempt_number=event.attempt_number,
        late=event.late,
        completed_at=event.completed_at,
    )
    _step(changes, message, step, late=event.late)


def _failed(changes: Changes, message: Received[GenerationFailed]) -> None:
    event = message.payload
    step = Step(event.version, "failed", failure_code=event.code, failure_detail=event.detail)
    _step(changes, message, step, code=event.code, detail=event.detail)


def _cancelling(changes: Changes, message: Received[GenerationCancelling]) -> None:
    _step(changes, message, Step(message.payload.version, "cancelling"))


def _cancelled(changes: Changes, message: Received[GenerationCancelled]) -> None:
    _step(changes, message, Step(message.payload.version, "cancelled"))


def _asset_stored(changes: Changes, message: Received[AssetStored]) -> None:
    payload = message.payload
    changes.about(payload.generation_id).facts.update(
        object_key=payload.object_key,
        poster_object_key=payload.poster_object_key,
        size_bytes=payload.size_bytes,
        sha256=payload.sha256,
        media=msgspec.to_builtins(payload.media),
    )
    changes.tell(message, payload.generation_id, "generation.updated", "asset_stored")


def _payment_changed(changes: Changes, message: Received[PaymentChanged]) -> None:
    payment, reason = message.payload.payment, message.payload.reason
    changes.payments.append(payment)
    told = {"status": payment.status, "version": payment.version, "reason": reason}
    changes.tell(message, payment.payment_id, "payment.updated", f"payment_{reason}", **told)


def _payment_refused(changes: Changes, message: Received[PaymentRefused]) -> None:
    refused = message.payload
    changes.refused_payments.append(refused)
    told = {"status": "refused", "version": 0, "reason": refused.code}
    changes.tell(message, refused.payment_id, "payment.updated", "payment_refused", **told)


REACTIONS: Final[dict[type[Message], Callable[[Changes, Received[Any]], None]]] = {
    CreditsReserved: _reserved,
    CreditsRefused: _refused,
    CreditsCaptured: _captured,
    CreditsReleased: _released,
    CreditsGranted: _granted,
    CreditsClawedBack: _clawed_back,
    CreditsExpired: _expired,
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
    PaymentChanged: _payment_changed,
    PaymentRefused: _payment_refused,
}
