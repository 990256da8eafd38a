"""A recorded span is exported as the SDK's own would be, whatever was done to it."""

from collections.abc import Callable
from operator import attrgetter
from typing import Final

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer

from service_runtime.span_exporter import encoded
from service_runtime.tracers import MOST, IdsOnly, RecordingProvider

RESOURCE: Final = Resource({"service.name": "tests", "service.namespace": "reelhouse"})
REMOTE: Final = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
LOCAL: Final = SpanContext(3, 4, is_remote=False, trace_flags=TraceFlags(0x03))
INVALID: Final = trace.INVALID_SPAN_CONTEXT
MANY: Final = range(MOST + 3)


class Recorded:
    """A tracer, and what it exported."""

    def __init__(self, provider: Callable[[SimpleSpanProcessor], trace.TracerProvider]) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer = provider(SimpleSpanProcessor(self.exporter)).get_tracer("reelhouse")


def ours(ratio: float = 1) -> Recorded:
    return Recorded(lambda processor: RecordingProvider(processor, RESOURCE, ratio))


def theirs() -> Recorded:
    def provider(processor: SimpleSpanProcessor) -> TracerProvider:
        made = TracerProvider(ParentBased(ALWAYS_ON), RESOURCE, shutdown_on_exit=False)
        made.add_span_processor(processor)
        return made

    return Recorded(provider)


def start(tracer: Tracer, parent: SpanContext = REMOTE, **described: object) -> Span:
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
    return tracer.start_span("a", context, start_time=1, **described)  # type: ignore[arg-type]


def with_attributes(tracer: Tracer) -> None:
    begun = start(tracer, kind=SpanKind.SERVER, attributes={"text": "é", "count": 1, "yes": True, "part": 0.5})
    begun.set_attributes({"list": ["a", "b"], "count": 2, "numbers": (1, 2), "large": 2**40, "negative": -1})
    begun.set_attribute("bytes", b"\x00")
    begun.update_name("b")
    begun.end(2**60)


def with_usual_attributes(tracer: Tracer) -> None:
    start(tracer, attributes={"text": "é", "count": -1, "yes": True, "part": 0.5}).end(2)
    start(tracer, kind=SpanKind.SERVER).end(3)


def with_values_that_otlp_cannot_say(tracer: Tracer) -> None:
    start(tracer, attributes={"a": 1, "number": 2**64, "text": "\ud800", "b": 2}).end(2)


def with_too_many(tracer: Tracer) -> None:
    begun = start(tracer, LOCAL, attributes={str(number): number for number in MANY})
    for number in MANY:
        begun.add_link(SpanContext(1, number + 1, is_remote=True))
        begun.add_event(str(number), timestamp=number)
    begun.end(2)


def with_links(tracer: Tracer) -> None:
    begun = start(tracer, INVALID, kind=SpanKind.CONSUMER, links=[Link(REMOTE), Link(INVALID), Link(LOCAL)])
    begun.add_link(REMOTE, {"a": "b"})
    begun.add_link(INVALID)
    begun.add_event("event", {"a": 1}, timestamp=2)
    begun.end(3)


def failed(tracer: Tracer) -> None:
    begun = start(tracer, kind=SpanKind.CLIENT)
    begun.set_status(StatusCode.ERROR)
    begun.set_status(StatusCode.UNSET)
    begun.end(2)


def succeeded(tracer: Tracer) -> None:
    begun = start(tracer, kind=SpanKind.PRODUCER)
    begun.set_status(Status(StatusCode.OK))
    begun.set_status(Status(StatusCode.ERROR))
    begun.end(2)


def changed_after_its_end(tracer: Tracer) -> None:
    begun = start(tracer)
    begun.end(2)
    begun.end(3)
    begun.set_attribute("a", 1)
    begun.set_attributes({"a": 1})
    begun.add_event("event")
    begun.add_link(LOCAL)
    begun.update_name("b")
    begun.set_status(StatusCode.ERROR)
    assert not begun.is_recording()


@pytest.mark.parametrize(
    "use",
    [
        with_attributes,
        with_usual_attributes,
        with_values_that_otlp_cannot_say,
        with_too_many,
        with_links,
        failed,
        succeeded,
        changed_after_its_end,
    ],
    ids=lambda f: f.__name__,
)
def test_a_span_is_exported_as_the_sdk_would(use: Callable[[Tracer], None]) -> None:
    own, sdk = ours(), theirs()
    use(own.tracer)
    use(sdk.tracer)
    sent = ExportTraceServiceRequest.FromString(encoded(own.exporter.get_finished_spans()))
    assert comparable(sent) == comparable(encode_spans(sdk.exporter.get_finished_spans()))


def comparable(request: ExportTraceServiceRequest) -> ResourceSpans:
    """Without the ids that were drawn, and with attributes in the order of their names."""
    resource: ResourceSpans
    (resource,) = request.resource_spans
    for scope in resource.scope_spans:
        for span in scope.spans:
            assert len(span.span_id) == 8
            span.span_id = b""
            span.attributes.sort(key=attrgetter("key"))
            if not span.parent_span_id:
                assert len(span.trace_id) == 16
                span.trace_id = b""
    return resource


def test_a_child_continues_its_parent_and_its_flags() -> None:
    tracer = ours(0).tracer
    for parent, flags in ((REMOTE, 0x01), (LOCAL, 0x03)):
        child = start(tracer, parent).get_span_context()
        assert child.trace_id == parent.trace_id
        assert child.span_id not in {0, parent.span_id}
        assert child.trace_flags == flags


def test_services_with_one_ratio_decide_alike_about_a_trace() -> None:
    tracer, sampler = ours(0.5).tracer, TraceIdRatioBased(0.5)
    begun = [tracer.start_span("a") for _ in range(100)]
    contexts = [one.get_span_context() for one in begun]
    assert {one.is_recording() for one in begun} == {True, False}
    assert [one.is_recording() for one in begun] == [context.trace_flags.sampled for context in contexts]
    assert [context.trace_flags.sampled for context in contexts] == [
        sampler.should_sample(None, context.trace_id, "a").decision is Decision.RECORD_AND_SAMPLE
        for context in contexts
    ]


def test_no_words_of_an_exception_are_kept_whoever_records_it() -> None:
    recorded = ours()
    with pytest.raises(ValueError, match="hunter2"), recorded.tracer.start_as_current_span("a"):
        raise ValueError("password=hunter2")
    (ended,) = recorded.exporter.get_finished_spans()
    assert not ended.status.is_ok
    assert dict(ended.attributes or {}) == {"error.type": "ValueError"}
    assert "hunter2" not in ended.to_json()


def test_without_recording_a_current_span_has_ids() -> None:
    with IdsOnly().get_tracer("tests").start_as_current_span("a") as current:
        assert trace.get_current_span() is current
        assert current.get_span_context().is_valid
        assert not current.is_recording()
