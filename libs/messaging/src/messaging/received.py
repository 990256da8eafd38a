"""A message as a handler sees it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

from contracts.message import Message

M = TypeVar("M", bound=Message, covariant=True)


@dataclass(frozen=True, slots=True)
class Received(Generic[M]):
    """One delivered message with its decoded payload.

    ``deliveries`` counts this delivery too: more than 1 means that the broker has handed it out before.
    ``occurred_at`` is by the producer's database clock. ``producer`` is the service that the message names as its own.
    """

    message_id: UUID
    subject: str
    payload: M
    correlation_id: UUID
    causation_id: UUID | None
    occurred_at: datetime
    traceparent: str | None
    deliveries: int
    producer: str | None = None
