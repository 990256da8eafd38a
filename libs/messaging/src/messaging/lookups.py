"""What a stream holds at or after a sequence, of the subjects that a service may know."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import nats.js.errors
from nats.js import JetStreamContext

from contracts import headers


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as its stream holds it. A message that none of us published may lack id and producer."""

    sequence: int
    message_id: str | None
    producer: str | None


async def first_from(
    jetstream: JetStreamContext, stream: str, subjects: Sequence[str], sequence: int
) -> StoredMessage | None:
    """The first message on one of ``subjects`` at or after ``sequence``, or None."""
    found = await asyncio.gather(*(_first_of(jetstream, stream, subject, sequence) for subject in subjects))
    return min((one for one in found if one is not None), key=lambda one: one.sequence, default=None)


async def _first_of(jetstream: JetStreamContext, stream: str, subject: str, sequence: int) -> StoredMessage | None:
    try:
        found = await jetstream.get_msg(stream, seq=sequence, next=True, subject=subject)
    except nats.js.errors.NotFoundError:
        return None
    if found.seq is None:
        return None
    values = found.headers or {}
    return StoredMessage(found.seq, values.get(headers.MESSAGE_ID), values.get(headers.PRODUCER))
