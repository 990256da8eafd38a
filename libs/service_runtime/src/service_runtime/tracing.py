"""Traces: every process makes W3C trace ids; spans are recorded and exported only where an endpoint is set.

A trace is followed through what outlives a process by its ``traceparent``: in the outbox and the headers of messages,
in rows that wait for a worker, in the addresses that a provider calls back. No span carries free text: no message of an
exception, no path, no query. What an operation concerns is said by ids and by names from fixed sets.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import Token
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Final
from uuid import UUID

import structlog
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from service_runtime.settings import ServiceSettings
from service_runtime.tracers import ERROR_TYPE, IdsOnly, RecordingProvider

CORRELATION_ID: Final = "messaging.message.conversation_id"
"""OpenTelemetry's name for it: the generation or payment that an operation is part of."""

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_TRACEPARENT: Final = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
"""As every service writes it."""
_LENGTH: Final = 55
_TRACER: Final = trace.get_tracer("reelhouse")
_NO_CONTEXT: Final = Context()
_NOTHING: Final = nullcontext()
_PARSED: Final = 512
"""Contexts of traces that are kept: one is read several times on its way through a process."""


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
    if not isinstance(trace.get_tracer_provider(), RecordingProvider | IdsOnly):
        trace.set_tracer_provider(tracer_provider(service, settings))


def tracer_provider(service: str, settings: ServiceSettings) -> trace.TracerProvider:
    """What makes the spans of a service, by its settings. Without an endpoint it makes ids and nothing else."""
    if settings.otlp_endpoint is None:
        return IdsOnly()
    resource = Resource.create({"service.name": service, "service.namespace": "reelhouse"})
    return RecordingProvider(_exported(settings.otlp_endpoint), resource, settings.trace_sample_ratio)


def flush_traces(timeout_seconds: float) -> None:
    """Send what is still buffered; called when the process stops."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, RecordingProvider):
        provider.force_flush(int(timeout_seconds * 1000))


def current_traceparent() -> str | None:
    """The W3C ``traceparent`` of what is being done now, or None outside any span."""
    return traceparent_of(None)


def traceparent_of(span: Span | None) -> str | None:
    """The W3C ``traceparent`` of ``span``, or of the current one."""
    known = (trace.get_current_span() if span is None else span).get_span_context()
    if not known.is_valid:
        return None
    return f"00-{known.trace_id:032x}-{known.span_id:016x}-{known.trace_flags:02x}"


def current_trace_id() -> str | None:
    """32 hexadecimal digits, or None outside any span."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def is_sampled(traceparent: str | None) -> bool:
    """Whether the spans of this trace, which ``traceparent_of`` gave, are recorded."""
    return traceparent is not None and int(traceparent[-2:], 16) & trace.TraceFlags.SAMPLED != 0


def is_not_recorded(traceparent: str | None) -> bool:
    """Whether this names a trace whose spans are not recorded: then it is its own continuation."""
    if traceparent is None:
        return False
    known = _cause(traceparent).get_span_context()
    return known.is_valid and not known.trace_flags.sampled


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


def span(
    name: str, traceparent: str | None = None, *, kind: SpanKind = SpanKind.INTERNAL, attributes: Attributes = None
) -> AbstractContextManager[Span]:
    """Do something under a span.

    It continues ``traceparent`` if that is given and valid, or the current span where that is of the same trace.
    """
    return _Current(_start(name, _parent(traceparent), kind, attributes))


def step(
    name: str, *, kind: SpanKind = SpanKind.CLIENT, attributes: Attributes = None
) -> AbstractContextManager[Span | None]:
    """A part of what is being done now: a span if that is recorded, and nothing otherwise."""
    if not trace.get_current_span().is_recording():
        return _NOTHING
    return _Current(_start(name, None, kind, attributes))


def batch_span(
    name: str,
    traceparents: Collection[str | None],
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes = None,
) -> AbstractContextManager[Span]:
    """Do something for several causes at once, under one span.

    Causes of one trace are continued: the span is a child of the first and links to the others. Causes of several
    traces are linked to from a trace of its own, which is recorded if one of them is.
    """
    causes = [_cause(one) for one in dict.fromkeys(traceparents) if one is not None]
    known = [cause for cause in causes if cause.get_span_context().is_valid]
    if len({cause.get_span_context().trace_id for cause in known}) == 1:
        parent, linked = _unless_current(known[0]), known[1:]
    else:
        parent, linked = trace.INVALID_SPAN, known
    return _Current(_start(name, parent, kind, attributes, [Link(cause.get_span_context()) for cause in linked]))


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
        cause = _cause(traceparent).get_span_context()
        if cause.is_valid:
            trace.get_current_span().add_link(cause)


def mark_failed(failed: Span, error: BaseException) -> None:
    """Record that ``failed`` did not succeed. An exception is named by its class: its message may hold anything."""
    if failed.is_recording():
        failed.set_attribute(ERROR_TYPE, type(error).__qualname__)
        failed.set_status(StatusCode.ERROR)


def _start(
    name: str,
    parent: Span | None,
    kind: SpanKind,
    attributes: Attributes,
    links: Sequence[Link] = (),
    start_nanoseconds: int | None = None,
) -> Span:
    """Without a ``parent`` the current span is it; an invalid one begins a trace."""
    cause = trace.get_current_span() if parent is None else parent
    known = cause.get_span_context()
    if known.is_valid and not known.trace_flags.sampled:
        # As the sampler would decide, without the price of a span: nine traces in ten are not recorded.
        return cause
    within = None if parent is None else trace.set_span_in_context(parent, _NO_CONTEXT)
    return _TRACER.start_span(name, within, kind=kind, attributes=attributes, links=links, start_time=start_nanoseconds)


class _Current(AbstractContextManager[Span]):
    """Makes a span the current one, and ends it."""

    __slots__ = ("_span", "_token")

    def __init__(self, started: Span) -> None:
        self._span = started
        self._token: Token[Context] | None = None

    def __enter__(self) -> Span:
        # A trace that is not recorded has one span in a process: it may be the current one already.
        if self._span is not trace.get_current_span():
            self._token = context.attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            context.detach(self._token)
        if self._span.is_recording():
            if isinstance(error, Exception):
                mark_failed(self._span, error)
            self._span.end()


def _cause(traceparent: str) -> Span:
    """A span that stands for a ``traceparent``; an invalid one if it is none."""
    # What strangers send may be 64 KiB long: that is not kept.
    return _kept_cause(traceparent) if len(traceparent) == _LENGTH else _strange_cause(traceparent)


def _strange_cause(traceparent: str) -> Span:
    """Of a later version, or nothing of the kind."""
    return trace.get_current_span(_PROPAGATOR.extract({"traceparent": traceparent}, _NO_CONTEXT))


@lru_cache(maxsize=_PARSED)
def _kept_cause(traceparent: str) -> Span:
    known = _TRACEPARENT.fullmatch(traceparent)
    if known is None:
        return _strange_cause(traceparent)
    trace_id, span_id, flags = known.groups()
    return trace.NonRecordingSpan(
        SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    )


def _parent(traceparent: str | None) -> Span | None:
    return None if traceparent is None else _unless_current(_cause(traceparent))


def _unless_current(cause: Span) -> Span | None:
    """None, which means the current span, where that is of the same trace: it is nearer."""
    known = cause.get_span_context()
    if not known.is_valid or known.trace_id == trace.get_current_span().get_span_context().trace_id:
        return None
    return cause


def _exported(endpoint: str) -> SpanProcessor:
    # Here, because a process that exports nothing has no use for protobuf and an HTTP client.
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from service_runtime.span_exporter import SpanExporter

    return BatchSpanProcessor(SpanExporter(endpoint=endpoint))
