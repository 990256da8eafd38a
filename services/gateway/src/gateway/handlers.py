"""How the gateway learns what happened elsewhere: one handler for each message, all into the read models."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
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
from contracts.payments import PaymentChanged, PaymentRefused
from contracts.storage import AssetStored
from contracts.values import LedgerLine
from gateway import projections
from gateway.projections import Activity, Step
from messaging.received import Received
from messaging.transaction import Transaction

Notify = Callable[[set[UUID]], None]
"""Called after the commit with the users whose history grew."""

WithLines = CreditsCaptured | CreditsReleased | CreditsGranted | CreditsClawedBack | CreditsExpired


class Projector:
    """The handlers; ``notify`` wakes the event streams of the users that something happened to."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify

    async def credits_reserved(self, tx: Transaction, messages: Sequence[Received[CreditsReserved]]) -> None:
        """An order is funded."""
        verdicts = [_verdict(m.payload.order.generation_id, "reserved", None, None) for m in messages]
        await projections.record_verdicts(tx.connection, verdicts)
        await projections.add_lines(tx.connection, [message.payload.line for message in messages])
        entries = [
            _entry(
                m, m.payload.order.user_id, m.payload.order.generation_id, "generation.updated", "credits_reserved", {}
            )
            for m in messages
        ]
        await self._append(tx, entries + [_balance(m, (m.payload.line,)) for m in messages])

    async def credits_refused(self, tx: Transaction, messages: Sequence[Received[CreditsRefused]]) -> None:
        """An order could not be funded: it ends here."""
        payloads = [message.payload for message in messages]
        await projections.record_verdicts(
            tx.connection,
            [_verdict(p.generation_id, p.code, p.required_credits, p.available_credits) for p in payloads],
        )
        await projections.refuse_generations(tx.connection, {p.generation_id: p.code for p in payloads})
        await self._append(tx, [_of_generation(m, "refused", {"code": m.payload.code}) for m in messages])

    async def credits_moved(self, tx: Transaction, messages: Sequence[Received[Any]]) -> None:
        """Any other movement of credits: captured, released, granted, clawed back, expired."""
        payloads: list[WithLines] = [message.payload for message in messages]
        lines = [line for payload in payloads for line in payload.lines]
        if lines:
            await projections.add_lines(tx.connection, lines)
        facts: dict[UUID, dict[str, Any]] = {}
        entries: list[Activity] = []
        for message, payload in zip(messages, payloads, strict=True):
            if isinstance(payload, CreditsCaptured):
                facts.setdefault(payload.generation_id, {})["captured_credits"] = payload.captured_credits
            if isinstance(payload, CreditsReleased):
                facts.setdefault(payload.generation_id, {})["released_credits"] = payload.released_credits
            if payload.lines:
                entries.append(_balance(message, payload.lines))
            entries += _movement_entries(message, payload)
        await projections.set_generation_facts(tx.connection, facts)
        await self._append(tx, entries)

    def generation_moved(
        self, describe: Callable[[Any], tuple[str, dict[str, Any], dict[str, Any]]]
    ) -> Callable[[Transaction, Sequence[Received[Any]]], Awaitable[None]]:
        """Build the handler of an event that moves a generation.

        ``describe`` gives its new status, the columns that change with it, and what its owner is told.
        """

        async def handle(tx: Transaction, messages: Sequence[Received[Any]]) -> None:
            steps, entries = [], []
            for message in messages:
                payload = message.payload
                status, columns, told = describe(payload)
                steps.append(Step(payload.generation_id, payload.version, status, columns))
                entries.append(_of_generation(message, status, told))
            await projections.advance_generations(tx.connection, steps)
            await self._append(tx, entries)

        return handle

    async def asset_stored(self, tx: Transaction, messages: Sequence[Received[AssetStored]]) -> None:
        """Where the file of a generation lies, and what it is."""
        facts = {
            p.generation_id: {
                "object_key": p.object_key,
                "poster_object_key": p.poster_object_key,
                "size_bytes": p.size_bytes,
                "sha256": p.sha256,
                "media": msgspec.to_builtins(p.media),
            }
            for p in (message.payload for message in messages)
        }
        await projections.set_generation_facts(tx.connection, facts)
        entries = [
            _entry(m, m.payload.user_id, m.payload.generation_id, "generation.updated", "asset_stored", {})
            for m in messages
        ]
        await self._append(tx, entries)

    async def payment_changed(self, tx: Transaction, messages: Sequence[Received[PaymentChanged]]) -> None:
        """A payment moved."""
        entries = []
        for message in messages:
            payment = message.payload.payment
            await projections.advance_payment(tx.connection, payment)
            told = {"payment_id": payment.payment_id, "status": payment.status, "reason": message.payload.reason}
            name = f"payment_{message.payload.reason}"
            entries.append(_entry(message, payment.user_id, payment.payment_id, "payment.updated", name, told))
        await self._append(tx, entries)

    async def payment_refused(self, tx: Transaction, messages: Sequence[Received[PaymentRefused]]) -> None:
        """A payment was not begun."""
        entries = []
        for message in messages:
            refused = message.payload
            await projections.refuse_payment(tx.connection, refused.payment_id, refused.code, refused.detail)
            told = {"payment_id": refused.payment_id, "status": "refused", "reason": refused.code}
            entries.append(
                _entry(message, refused.user_id, refused.payment_id, "payment.updated", "payment_refused", told)
            )
        await self._append(tx, entries)

    async def _append(self, tx: Transaction, entries: Sequence[Activity]) -> None:
        if entries:
            users = await projections.add_activity(tx.connection, entries)
            tx.after_commit(lambda: self._notify(users))


def _verdict(generation_id: UUID, said: str, required: int | None, had: int | None) -> dict[str, Any]:
    return {"of_generation": generation_id, "said": said, "required": required, "had": had}


def _entry(
    message: Received[Any], user_id: UUID, subject_id: UUID | None, event: str, name: str, told: dict[str, Any]
) -> Activity:
    data: dict[str, Any] = {"name": name, **told}
    if event == "generation.updated":
        data["generation_id"] = subject_id
    # A message can leave two entries, of which each needs an id of its own.
    own = message.message_id if event != "balance.updated" else _second_id(message.message_id)
    return Activity(user_id, own, subject_id, event, name, msgspec.to_builtins(data), message.occurred_at)


def _second_id(message_id: UUID) -> UUID:
    return UUID(int=message_id.int ^ 1)


def _of_generation(message: Received[Any], status: str, told: dict[str, Any]) -> Activity:
    payload = message.payload
    name = told.pop("name", status)
    return _entry(
        message, payload.user_id, payload.generation_id, "generation.updated", name, {"status": status, **told}
    )


def _balance(message: Received[Any], lines: Sequence[LedgerLine]) -> Activity:
    last = max(lines, key=lambda line: line.line_number)
    told = {
        "available_credits": last.available_after_credits,
        "reserved_credits": last.reserved_after_credits,
        "receivable_credits": last.receivable_after_credits,
        "line_number": last.line_number,
        "reason": last.reason,
    }
    return _entry(message, last.user_id, None, "balance.updated", "balance_updated", told)


def _movement_entries(message: Received[Any], payload: WithLines) -> list[Activity]:
    """What a movement means for the generation or payment that it belongs to."""
    if isinstance(payload, CreditsCaptured):
        told: dict[str, Any] = {"captured_credits": payload.captured_credits}
        name = "credits_captured"
    elif isinstance(payload, CreditsReleased):
        told, name = {"released_credits": payload.released_credits}, "credits_released"
    elif isinstance(payload, CreditsGranted) and payload.payment_id is not None:
        granted = {"payment_id": payload.payment_id, "credits": payload.amount_credits}
        return [_entry(message, payload.user_id, payload.payment_id, "payment.updated", "credits_granted", granted)]
    elif isinstance(payload, CreditsClawedBack):
        taken = {"payment_id": payload.payment_id, "credits": payload.clawed_back_credits}
        return [_entry(message, payload.user_id, payload.payment_id, "payment.updated", "credits_clawed_back", taken)]
    else:
        return []
    return [_entry(message, payload.user_id, payload.generation_id, "generation.updated", name, told)]


def queued(_: GenerationQueued) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """It waits for its turn."""
    return "queued", {}, {}


def dispatched(event: GenerationDispatched) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The provider took it."""
    return "dispatching", {"attempt_number": event.attempt_number}, {"attempt_number": event.attempt_number}


def started(event: GenerationStarted) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A worker renders it."""
    return "running", {"attempt_number": event.attempt_number}, {"attempt_number": event.attempt_number}


def attempt_failed(event: AttemptFailed) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """One attempt came to nothing; it waits for the next, or for its end."""
    told = {"name": "attempt_failed", "attempt_number": event.attempt_number, "code": event.code}
    return "queued", {}, told | {"retry_at": event.retry_at}


def output_ready(event: OutputReady) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The file is being checked."""
    return "storing", {}, {"attempt_number": event.claim.attempt_number}


def completed(event: GenerationCompleted) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The file is there."""
    columns = {
        "late": event.late,
        "completed_at": event.completed_at,
        "failure_code": None,
        "failure_detail": None,
        "attempt_number": event.attempt_number,
    }
    return "completed", columns, {"late": event.late}


def failed(event: GenerationFailed) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """No file will come."""
    columns = {"failure_code": event.code, "failure_detail": event.detail}
    return "failed", columns, {"code": event.code, "detail": event.detail}


def cancelling(_: GenerationCancelling) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The provider is being told to stop."""
    return "cancelling", {}, {}


def cancelled(_: GenerationCancelled) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The user's cancel won."""
    return "cancelled", {}, {}
