"""Traces across the broker, by OpenTelemetry's conventions for messaging.

``create`` is a message's own span, opened and closed in the transaction that publishes it; its context travels in the
outbox row and in the W3C ``traceparent`` header. ``send`` is the relay's, from handing the message to the broker to
its PubAck. ``process`` is a consumer's, around the transaction of a batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

import structlog
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

from messaging.outbox import Unpublished
from messaging.received import Received
from service_runtime.tracing import (
    CORRELATION_ID,
    Origin,
    batch_span,
    is_not_recorded,
    is_sampled,
    start_span,
    traceparent_of,
)

SYSTEM: Final = "nats"


def traceparent_for(
    message_id: UUID, subject: str, correlation_id: UUID, cause: Received[Any] | None, traceparent: str | None = None
) -> str | None:
    """Open and close the span of a new message and return its context.

    It continues the trace of the very message that is answered (``cause``), not that of the batch around it; without
    a cause, ``traceparent``; without either, what is being done now.
    """
    before = cause.traceparent if cause is not None else traceparent
    if is_not_recorded(before):
        return before
    created = start_span(f"create {subject}", before, kind=SpanKind.PRODUCER)
    if created.is_recording():
        created.set_attributes(_attributes("create", subject, message_id, correlation_id))
    created.end()
    return traceparent_of(created)


def record_sent(rows: Sequence[Unpublished], began_nanoseconds: int) -> None:
    """The broker has these messages; they were handed to it at ``began_nanoseconds`` (Unix time)."""
    for row in rows:
        if is_sampled(row.traceparent):
            start_span(
                f"send {row.subject}",
                row.traceparent,
                kind=SpanKind.CLIENT,
                attributes=_attributes("send", row.subject, row.message_id, row.correlation_id),
                start_nanoseconds=began_nanoseconds,
            ).end()


@contextmanager
def consumer_span(consumer: str, messages: Sequence[Received[Any]]) -> Iterator[None]:
    """One ``process`` span for the batch, in the trace of its messages if they share one, and with links otherwise.

    Log lines inside name the order or payment, and its user, if the messages all concern the same.
    """
    subjects = {message.subject for message in messages}
    destination = subjects.pop() if len(subjects) == 1 else consumer
    attributes: dict[str, AttributeValue] = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": destination,
        "messaging.consumer.group.name": consumer,
    }
    origins = {_origin(message) for message in messages}
    fields: dict[str, str] = {}
    if len(origins) == 1:
        fields = origins.pop().log_fields
        attributes[CORRELATION_ID] = fields["correlation_id"]
    if len(messages) == 1:
        attributes["messaging.message.id"] = str(messages[0].message_id)
    else:
        attributes["messaging.batch.message_count"] = len(messages)
    causes = [message.traceparent for message in messages]
    with (
        structlog.contextvars.bound_contextvars(**fields),
        batch_span(f"process {destination}", causes, kind=SpanKind.CONSUMER, attributes=attributes),
    ):
        yield


def _origin(message: Received[Any]) -> Origin:
    return Origin(correlation_id=message.correlation_id, user_id=getattr(message.payload, "user_id", None))


def _attributes(operation: str, subject: str, message_id: UUID, correlation_id: UUID) -> dict[str, AttributeValue]:
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": subject,
        "messaging.message.id": str(message_id),
        CORRELATION_ID: str(correlation_id),
    }
