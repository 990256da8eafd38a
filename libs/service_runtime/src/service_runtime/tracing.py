"""Traces: every process makes W3C trace ids; spans are recorded and exported only where an endpoint is set.

A trace is followed through what outlives a process by its ``traceparent``: in the outbox and the headers of messages,
in rows that wait for a worker, in the addresses that a provider calls back. No span carries free text: no message of an
exception, no path, no query. What an operation concerns is said by ids and by names from fixed sets.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes, AttributeValue

from service_runtime.settings import ServiceSettings

CORRELATION_ID: Final = "messaging.message.conversation_id"
"""OpenTelemetry's name for it: the generation or payment that an operation is part of."""
ERROR_TYPE: Final = "error.type"

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_TRACER: Final = trace.get_tracer("reelhouse")
_NO_CONTEXT: Final = Context()


@dataclass(frozen=True, slots=True)
class Origin:
    """What caused a piece of work that waited in a row: its trace, and whom it concerns."""

    traceparent: str | None = None
    correlation_id: UUID | None = None
    user_id: UUID | None = None

    @property
    def log_fields(self) -> dict[str, str]:
        """For every log line that is written meanwhile."""
        known = {"correlation_id": self.correlation_id, "user_id": self.user_id}
        return {name: str(value) for name, value in known.items() if value is not None}


def configure_tracing(service: str, settings: ServiceSettings) -> None:
    """Make this process produce trace ids, and export spans if ``settings.otlp_endpoint`` is set. Once per process."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(tracer_provider(service, settings))


def tracer_provider(service: str, settings: ServiceSettings) -> TracerProvider:
    """What makes the spans of a service, by its settings."""
    sampler = ALWAYS_OFF if settings.otlp_endpoint is None else ParentBased(_RootSampler(settings.trace_sample_ratio))
    resource = Resource.create({"service.name": service, "service.namespace": "reelhouse"})
    provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
    if settings.otlp_endpoint is not None:
        _export(provider, settings.otlp_endpoint)
    return provider


def flush_traces(timeout_seconds: float) -> None:
    """Send what is still buffered; called when the process stops."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush(int(timeout_seconds * 1000))


def current_traceparent() -> str | None:
    """The W3C ``traceparent`` of what is being done now, or None outside any span."""
    return traceparent_of(None)


def traceparent_of(span: Span | None) -> str | None:
    """The W3C ``traceparent`` of ``span``, or of the current one."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, None if span is None else trace.set_span_in_context(span, _NO_CONTEXT))
    return carrier.get("traceparent")


def current_trace_id() -> str | None:
    """32 hexadecimal digits, or None outside any span."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def is_sampled(traceparent: str | None) -> bool:
    """Whether the spans of this trace, which ``traceparent_of`` gave, are recorded."""
    return traceparent is not None and int(traceparent[-2:], 16) & trace.TraceFlags.SAMPLED != 0


def start_span(
    name: str,
    traceparent: str | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes = None,
    start_nanoseconds: int | None = None,
) -> Span:
    """A span that its caller ends, and that is not the current one. Continues as ``span`` does."""
    return _start(name, _parent(traceparent), kind, attributes, start_nanoseconds=start_nanoseconds)


@contextmanager
def span(
    name: str, traceparent: str | None = None, *, kind: SpanKind = SpanKind.INTERNAL, attributes: Attributes = None
) -> Iterator[Span]:
    """Do something under a span.

    It continues ``traceparent`` if that is given and valid, or the current span where that is of the same trace.
    """
    with _current(_start(name, _parent(traceparent), kind, attributes)) as current:
        yield current


@contextmanager
def step(name: str, *, kind: SpanKind = SpanKind.CLIENT, attributes: Attributes = None) -> Iterator[None]:
    """A part of what is being done now: a span if that is recorded, and nothing otherwise."""
    if not trace.get_current_span().is_recording():
        yield
        return
    with _current(_start(name, None, kind, attributes)):
        yield


@contextmanager
def batch_span(
    name: str,
    traceparents: Collection[str | None],
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes = None,
) -> Iterator[Span]:
    """Do something for several causes at once, under one span.

    Causes of one trace are continued: the span is a child of the first and links to the others. Causes of several
    traces are linked to from a trace of its own, which is recorded if one of them is.
    """
    contexts = [_context(one) for one in dict.fromkeys(traceparents) if one is not None]
    causes = [(context, cause) for context, cause in contexts if cause.is_valid]
    if len({cause.trace_id for _, cause in causes}) == 1:
        parent, linked = _unless_current(*causes[0]), causes[1:]
    else:
        parent, linked = _NO_CONTEXT, causes
    links = [Link(cause) for _, cause in linked]
    with _current(_start(name, parent, kind, attributes, links)) as current:
        yield current


@contextmanager
def work_span(name: str, origin: Origin) -> Iterator[Span]:
    """Work on a row that waited, in the trace of its origin; every log line meanwhile names whom it concerns."""
    fields = origin.log_fields
    attributes = {CORRELATION_ID: fields["correlation_id"]} if "correlation_id" in fields else None
    with (
        structlog.contextvars.bound_contextvars(**fields),
        span(name, origin.traceparent, kind=SpanKind.CONSUMER, attributes=attributes) as current,
    ):
        yield current


def link_to(traceparent: str | None) -> None:
    """What is being done now turned out to concern another trace, too."""
    if traceparent is not None and trace.get_current_span().is_recording():
        cause = _context(traceparent)[1]
        if cause.is_valid:
            trace.get_current_span().add_link(cause)


def mark_failed(failed: Span, error: BaseException) -> None:
    """Record that ``failed`` did not succeed. An exception is named by its class: its message may hold anything."""
    if failed.is_recording():
        failed.set_attribute(ERROR_TYPE, type(error).__qualname__)
        failed.set_status(Status(StatusCode.ERROR))


def _start(
    name: str,
    parent: Context | None,
    kind: SpanKind,
    attributes: Attributes,
    links: Sequence[Link] = (),
    start_nanoseconds: int | None = None,
) -> Span:
    cause = trace.get_current_span(parent).get_span_context()
    if cause.is_valid and not cause.trace_flags.sampled:
        # As the sampler would decide, without the price of a span: nine traces in ten are not recorded.
        return trace.NonRecordingSpan(cause)
    return _TRACER.start_span(name, parent, kind=kind, attributes=attributes, links=links, start_time=start_nanoseconds)


@contextmanager
def _current(started: Span) -> Iterator[Span]:
    with trace.use_span(started, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield started
        except Exception as error:
            mark_failed(started, error)
            raise


def _context(traceparent: str) -> tuple[Context, trace.SpanContext]:
    context = _PROPAGATOR.extract({"traceparent": traceparent}, _NO_CONTEXT)
    return context, trace.get_current_span(context).get_span_context()


def _parent(traceparent: str | None) -> Context | None:
    return None if traceparent is None else _unless_current(*_context(traceparent))


def _unless_current(context: Context, cause: trace.SpanContext) -> Context | None:
    """None, which means the current context, where that is of the same trace: it is nearer."""
    if not cause.is_valid or cause.trace_id == trace.get_current_span().get_span_context().trace_id:
        return None
    return context


class _RootSampler(Sampler):
    """Decides on traces that begin here: ``ratio`` of them, and each that links to one that is recorded."""

    def __init__(self, ratio: float) -> None:
        self._ratio = TraceIdRatioBased(ratio)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """See ``Sampler``."""
        if links:
            recorded = any(link.context.trace_flags.sampled for link in links)
            return SamplingResult(Decision.RECORD_AND_SAMPLE if recorded else Decision.DROP, attributes, trace_state)
        return self._ratio.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """See ``Sampler``."""
        return f"root-or-linked({self._ratio.get_description()})"


def _export(provider: TracerProvider, endpoint: str) -> None:
    # Here, because a process that exports nothing has no use for protobuf and an HTTP client.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
