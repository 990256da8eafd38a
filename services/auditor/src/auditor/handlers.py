"""Writes received messages to the journal."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec

from auditor.repository import journal
from auditor.repository.journal import JournalEntry
from contracts.message import Message
from contracts.registry import stream_of
from messaging.received import Received
from messaging.transaction import Transaction

MAX_PAYLOAD_BYTES: Final = 64 * 1024
"""Of a larger payload only the size and the beginning are kept: the outbox has the original."""
_BEGINNING_CHARACTERS: Final = 1024
UNNAMED_PRODUCER: Final = "unnamed"
"""Stands for the producer of a message that names none."""


async def record(tx: Transaction, messages: Sequence[Received[Message]]) -> None:
    """Add a batch to the journal in one statement; messages that are in it already stay unchanged."""
    entries = [journal_entry(received) for received in messages]
    await journal.add_entries(tx, entries)


def journal_entry(received: Received[Message]) -> JournalEntry:
    """The journal's row for one message."""
    payload = received.payload
    return JournalEntry(
        message_id=received.message_id,
        subject=received.subject,
        stream=stream_of(received.subject),
        producer=received.producer or UNNAMED_PRODUCER,
        is_foreign=received.producer not in payload.producers,
        correlation_id=received.correlation_id,
        causation_id=received.causation_id,
        user_id=_find_user(payload),
        traceparent=received.traceparent,
        occurred_at=received.occurred_at,
        payload=_shortened(msgspec.json.encode(payload)),
    )


def _find_user(payload: Message) -> UUID | None:
    """The user that the message is about; some messages carry the user inside an order or a payment."""
    for holder in (payload, getattr(payload, "order", None), getattr(payload, "payment", None)):
        user_id = getattr(holder, "user_id", None)
        if isinstance(user_id, UUID):
            return user_id
    return None


def _shortened(encoded: bytes) -> str:
    text = encoded.decode()
    if len(encoded) <= MAX_PAYLOAD_BYTES:
        return text
    beginning = {"shortened": True, "size_bytes": len(encoded), "beginning": text[:_BEGINNING_CHARACTERS]}
    return msgspec.json.encode(beginning).decode()
