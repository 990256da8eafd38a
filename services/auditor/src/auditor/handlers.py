"""Writing down what was received."""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from auditor import repository
from contracts.message import Message
from contracts.registry import stream_of
from messaging.received import Received
from messaging.transaction import Transaction

MAX_PAYLOAD_BYTES: Final = 64 * 1024
"""Larger payloads are kept by size and beginning only: the journal is for reading, the outbox holds the original."""
_BEGINNING_CHARACTERS: Final = 1024


async def record(tx: Transaction, messages: Sequence[Received[Message]]) -> None:
    """Add a batch to the journal in one statement; those that are in it already stay as they are."""
    await repository.add_entries(tx.connection, [entry_of(received) for received in messages])


def entry_of(received: Received[Message]) -> repository.Entry:
    """The journal's row for one message."""
    payload = received.payload
    return repository.Entry(
        message_id=received.message_id,
        subject=received.subject,
        stream=stream_of(received.subject),
        # The contracts know one producer for each message, and the broker lets no other publish it.
        producer=payload.producers[0],
        correlation_id=received.correlation_id,
        causation_id=received.causation_id,
        user_id=_user_of(payload),
        traceparent=received.traceparent,
        occurred_at=received.occurred_at,
        payload=_bounded(msgspec.json.encode(payload)),
    )


def _user_of(payload: Any) -> UUID | None:
    """Whose message it is; some carry the user inside what they are about."""
    for holder in (payload, getattr(payload, "order", None), getattr(payload, "payment", None)):
        user_id = getattr(holder, "user_id", None)
        if isinstance(user_id, UUID):
            return user_id
    return None


def _bounded(encoded: bytes) -> str:
    text = encoded.decode()
    if len(encoded) <= MAX_PAYLOAD_BYTES:
        return text
    shortened = {"shortened": True, "size_bytes": len(encoded), "beginning": text[:_BEGINNING_CHARACTERS]}
    return msgspec.json.encode(shortened).decode()
