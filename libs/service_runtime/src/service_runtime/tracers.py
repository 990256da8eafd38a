"""What makes spans, under OpenTelemetry's API: ids and nothing else, or spans that are recorded.

``RecordingProvider`` stands for the SDK's ``TracerProvider``, whose spans cost several times as much
(``docs/decisions/0059-spans-of-our-own.md``). What follows a span's end is the SDK's: the bounded queue, its thread,
the exporter.
"""

import random
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AnyValue, Attributes

ERROR_TYPE: Final = "error.type"
MOST: Final = 128
"""Attributes, links and events of a span, as the SDK bounds them: the oldest are dropped, and counted."""

_NOT_RECORDED: Final = TraceFlags(TraceFlags.RANDOM_TRACE_ID)
_RECORDED: Final = TraceFlags(TraceFlags.SAMPLED)
_RECORDED_RANDOM: Final = TraceFlags(TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID)
_UNSET: Final = Status(StatusCode.UNSET)


class _Tracer(trace.Tracer):
    @contextmanager
    def start_as_current_span(  # type: ignore[override] # its type is private there
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Iterator[Span]:
        """See ``Tracer``."""
        started = self.start_span(name, context, kind, attributes, links, start_time)
        with trace.use_span(started, end_on_exit, record_exception, set_status_on_exception):
            yield started


class IdsOnly(trace.TracerProvider, _Tracer):
    """Makes the ids of traces, and records nothing: what a process does that exports nothing."""

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        """See ``TracerProvider``: there is one for all."""
        return self

    def start_span(self, name: str, context: Context | None = None, *_: Any, **__: Any) -> Span:
        """See ``Tracer``: a new id in the trace of the parent, or in a new one."""
        parent = trace.get_current_span(context).get_span_context()
        return _not_recorded(parent.trace_id if parent.is_valid else _new_trace_id())


class RecordingProvider(trace.TracerProvider):
    """Records each trace that a recorded one continues or links to, and ``ratio`` of those that begin here.

    The ratio is OpenTelemetry's: every service that has the same one decides alike about a trace id.
    """

    def __init__(self, processor: SpanProcessor, resource: Resource, ratio: float) -> None:
        """``processor`` is given each span when it has ended."""
        self._processor = processor
        self._resource = resource
        self._bound = TraceIdRatioBased.get_bound_for_rate(ratio)

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> trace.Tracer:
        """See ``TracerProvider``."""
        scope = InstrumentationScope(instrumenting_module_name, instrumenting_library_version, schema_url, attributes)
        return _RecordingTracer(self._processor, self._resource, self._bound, scope)

    def force_flush(self, timeout_milliseconds: int) -> bool:
        """Export what has ended; false if that took too long."""
        return self._processor.force_flush(timeout_milliseconds)


class _RecordingTracer(_Tracer):
    def __init__(self, processor: SpanProcessor, resource: Resource, bound: int, scope: InstrumentationScope) -> None:
        self._processor = processor
        self._resource = resource
        self._bound = bound
        self._scope = scope

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        """See ``Tracer``."""
        parent = trace.get_current_span(context).get_span_context()
        if parent.is_valid:
            trace_id, flags = parent.trace_id, parent.trace_flags
            recorded = flags.sampled
        else:
            trace_id, flags = _new_trace_id(), _NOT_RECORDED
            recorded = self._is_recorded(trace_id, links)
        if not recorded:
            return _not_recorded(trace_id)
        own = SpanContext(
            trace_id,
            _new_span_id(),
            is_remote=False,
            trace_flags=_RECORDED_RANDOM if flags.random_trace_id else _RECORDED,
            trace_state=parent.trace_state,
        )
        return _RecordedSpan(
            self._processor,
            name=name,
            context=own,
            parent=parent if parent.is_valid else None,
            resource=self._resource,
            attributes=dict(attributes) if attributes else {},
            events=[],
            links=[link for link in links if link.context.is_valid] if links else [],
            kind=kind,
            status=_UNSET,
            start_time=time.time_ns() if start_time is None else start_time,
            instrumentation_scope=self._scope,
        )

    def _is_recorded(self, trace_id: int, links: Sequence[Link] | None) -> bool:
        """Whether a trace is that begins here."""
        if links:
            return any(link.context.trace_flags.sampled for link in links)
        return trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._bound


class _RecordedSpan(Span, ReadableSpan):
    """A span on its way to ``processor``, which is given it when it ends; it does not change afterwards.

    It takes no lock: each change is one operation on a list or a dictionary, and one task ends a span.
    It keeps no words of an exception, whoever records one: they may hold anything.
    """

    _context: SpanContext
    _attributes: MutableMapping[str, AnyValue]
    _events: list[Event] | BoundedList[Event]
    _links: list[Link] | BoundedList[Link]

    def __init__(self, processor: SpanProcessor, **described: Any) -> None:
        super().__init__(**described)
        self._processor = processor

    def end(self, end_time: int | None = None) -> None:
        """See ``Span``."""
        if self._end_time is None:
            self._end_time = time.time_ns() if end_time is None else end_time
            self._bound()
            self._processor.on_end(self)

    def get_span_context(self) -> SpanContext:
        """See ``Span``."""
        return self._context

    def is_recording(self) -> bool:
        """See ``Span``."""
        return self._end_time is None

    def set_attributes(self, attributes: Mapping[str, AnyValue]) -> None:
        """See ``Span``."""
        if self._end_time is None:
            self._attributes.update(attributes)

    def set_attribute(self, key: str, value: AnyValue) -> None:
        """See ``Span``."""
        if self._end_time is None:
            self._attributes[key] = value

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """See ``Span``."""
        if self._end_time is None:
            self._events.append(Event(name, attributes, timestamp))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """See ``Span``."""
        if self._end_time is None and context.is_valid:
            self._links.append(Link(context, attributes))

    def update_name(self, name: str) -> None:
        """See ``Span``."""
        if self._end_time is None:
            self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """See ``Span``; what describes it is left out. ``OK`` stands, and nothing is unset."""
        code = status.status_code if isinstance(status, Status) else status
        if self._end_time is None and code is not StatusCode.UNSET and self._status.status_code is not StatusCode.OK:
            self._status = Status(code)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """See ``Span``: by its class."""
        self.set_attribute(ERROR_TYPE, type(exception).__qualname__)

    def _bound(self) -> None:
        if len(self._attributes) > MOST:
            self._attributes = BoundedAttributes(MOST, self._attributes)
        if len(self._links) > MOST:
            self._links = BoundedList.from_seq(MOST, self._links)
        if len(self._events) > MOST:
            self._events = BoundedList.from_seq(MOST, self._events)


def _not_recorded(trace_id: int) -> Span:
    return trace.NonRecordingSpan(SpanContext(trace_id, _new_span_id(), is_remote=False, trace_flags=_NOT_RECORDED))


def _new_trace_id() -> int:
    return random.getrandbits(128) or 1


def _new_span_id() -> int:
    return random.getrandbits(64) or 1
