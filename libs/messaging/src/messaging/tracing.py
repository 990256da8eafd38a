"""Trace context across the broker, in the W3C ``traceparent`` header."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.propagate import extract, inject

from contracts import headers
from messaging.received import Received

_tracer = trace.get_tracer("messaging")


def traceparent_for(subject: str, cause: Received[Any] | None) -> str | None:
    """Open and close a producer span and return its context for the message.

    In a batch the trace continues from the very message that is answered (``cause``), not from the batch around it.
    """
    parent = _context_of(cause.traceparent) if cause is not None and cause.traceparent else None
    span = _tracer.start_span(f"publish {subject}", context=parent, kind=trace.SpanKind.PRODUCER)
    carrier: dict[str, str] = {}
    inject(carrier, context=trace.set_span_in_context(span, parent))
    span.end()
    return carrier.get(headers.TRACEPARENT)


@contextmanager
def consumer_span(consumer: str, messages: Sequence[Received[Any]]) -> Iterator[None]:
    """Everything inside belongs to the trace of the one message, or to a batch span that links to all of theirs."""
    contexts = [_context_of(message.traceparent) for message in messages if message.traceparent]
    parent = contexts[0] if len(messages) == 1 and contexts else otel_context.Context()
    links = [trace.Link(trace.get_current_span(linked).get_span_context()) for linked in contexts]
    with _tracer.start_as_current_span(
        f"process {consumer}",
        context=parent,
        kind=trace.SpanKind.CONSUMER,
        links=links if len(messages) > 1 else None,
        attributes={"messaging.batch.message_count": len(messages)},
    ):
        yield


def _context_of(traceparent: str | None) -> otel_context.Context:
    return extract({headers.TRACEPARENT: traceparent or ""}, context=otel_context.Context())
