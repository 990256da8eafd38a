"""Spans on their way to a collector: OTLP over HTTP, by the SDK's exporter, with an encoder of ours.

The encoder says what the SDK's says, for a quarter of its processor time (``docs/decisions/0059-spans-of-our-own.md``):
it fills protobuf's messages in place, where the SDK makes each one apart and copies it into the next.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, SpanFlags
from opentelemetry.proto.trace.v1.trace_pb2 import Span as EncodedSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status as EncodedStatus
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext, SpanKind, StatusCode
from opentelemetry.util.types import AnyValue

_KINDS: Final = {kind: EncodedSpan.SpanKind.Value(f"SPAN_KIND_{kind.name}") for kind in SpanKind}
_CODES: Final = {code: EncodedStatus.StatusCode.Value(f"STATUS_CODE_{code.name}") for code in StatusCode}
_FIELDS: Final = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}
_LOCAL: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE: Final = _LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


class SpanExporter(OTLPSpanExporter):
    """The SDK's exporter (its variables ``OTEL_EXPORTER_OTLP_*``, tries, TLS and bounds), but for how it encodes."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See ``SpanExporter`` of the SDK."""
        sent = self._client.export(encoded(spans))
        return SpanExportResult.SUCCESS if sent.success else SpanExportResult.FAILURE


def encoded(spans: Sequence[ReadableSpan]) -> bytes:
    """The request that exports ``spans``, at least one, all of one resource."""
    request = ExportTraceServiceRequest()
    resource = spans[0].resource
    of_resource = request.resource_spans.add(schema_url=resource.schema_url)
    _add_attributes(of_resource.resource.attributes, resource.attributes)
    for scope, group in groupby(spans, attrgetter("instrumentation_scope")):
        of_scope = of_resource.scope_spans.add(schema_url=scope.schema_url)
        of_scope.scope.name, of_scope.scope.version = scope.name, scope.version or ""
        _add_attributes(of_scope.scope.attributes, scope.attributes)
        for span in group:
            _add_span(of_scope, span)
    data: bytes = request.SerializeToString()
    return data


def _add_span(scope: ScopeSpans, span: ReadableSpan) -> None:
    try:
        _fill(scope.spans.add(), span)
    except (KeyError, ValueError):
        # An attribute is not one of the usual types, or not one that OTLP can say. The SDK knows what to do.
        del scope.spans[-1]
        scope.spans.extend(encode_spans([span]).resource_spans[0].scope_spans[0].spans)


def _fill(into: EncodedSpan, span: ReadableSpan) -> None:
    own, parent = span.context, span.parent
    into.trace_id = _trace_id(own)
    into.span_id = _span_id(own)
    if own.trace_state:
        into.trace_state = own.trace_state.to_header()
    if parent is not None:
        into.parent_span_id = _span_id(parent)
    into.flags = _flags(parent)
    into.name = span.name
    into.kind = _KINDS[span.kind]
    into.start_time_unix_nano = span.start_time or 0
    into.end_time_unix_nano = span.end_time or 0
    _add_attributes(into.attributes, span.attributes)
    into.dropped_attributes_count = span.dropped_attributes
    for event in span.events:
        added = into.events.add(name=event.name, time_unix_nano=event.timestamp)
        _add_attributes(added.attributes, event.attributes)
        added.dropped_attributes_count = event.dropped_attributes
    into.dropped_events_count = span.dropped_events
    for link in span.links:
        linked = link.context
        of_link = into.links.add(trace_id=_trace_id(linked), span_id=_span_id(linked), flags=_flags(linked))
        _add_attributes(of_link.attributes, link.attributes)
        of_link.dropped_attributes_count = link.dropped_attributes
    into.dropped_links_count = span.dropped_links
    into.status.code = _CODES[span.status.status_code]
    if span.status.description:
        into.status.message = span.status.description


def _add_attributes(into: Any, attributes: Mapping[str, AnyValue] | None) -> None:
    """Raises KeyError for a value of no usual type, ValueError for one that OTLP cannot say."""
    for key, value in (attributes or {}).items():
        setattr(into.add(key=key).value, _FIELDS[type(value)], value)


def _trace_id(context: SpanContext) -> bytes:
    return context.trace_id.to_bytes(16, "big")


def _span_id(context: SpanContext) -> bytes:
    return context.span_id.to_bytes(8, "big")


def _flags(context: SpanContext | None) -> int:
    return _REMOTE if context is not None and context.is_remote else _LOCAL
