"""Which spans are recorded, what they continue, and what they never say."""

import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service_runtime.tracers import RecordingProvider
from service_runtime.tracing import (
    Origin,
    batch_span,
    current_trace_id,
    is_not_recorded,
    is_sampled,
    link_to,
    mark_failed,
    span,
    start_span,
    step,
    traceparent_of,
    tracer_provider,
    work_span,
)
from tests.service_runtime.settings import settings

RECORDED = f"00-{1:032x}-{1:016x}-01"
ALSO_RECORDED = f"00-{1:032x}-{2:016x}-01"
OTHER_RECORDED = f"00-{2:032x}-{1:016x}-01"
NOT_RECORDED = f"00-{3:032x}-{1:016x}-00"


class Spans:
    """Traces of this process with one ratio."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._exporter = InMemorySpanExporter()

    def sample(self, ratio: float) -> None:
        """Record this part of the traces that begin from now on."""
        provider = RecordingProvider(SimpleSpanProcessor(self._exporter), Resource({}), ratio)
        self._monkeypatch.setattr("service_runtime.tracing._TRACER", provider.get_tracer("tests"))

    @property
    def ended(self) -> dict[str, ReadableSpan]:
        """By name."""
        return {one.name: one for one in self._exporter.get_finished_spans()}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    spans = Spans(monkeypatch)
    spans.sample(0)
    return spans


def test_a_parent_decides_for_its_trace(spans: Spans) -> None:
    for name, traceparent in {"a": RECORDED, "b": NOT_RECORDED, "c": None, "d": "nonsense"}.items():
        with span(name, traceparent):
            pass
    assert set(spans.ended) == {"a"}
    parent = spans.ended["a"].parent
    assert parent is not None
    assert (parent.trace_id, parent.span_id) == (1, 1)


def test_a_batch_of_one_trace_continues_it(spans: Spans) -> None:
    with batch_span("batch", [RECORDED, ALSO_RECORDED, RECORDED, None]):
        assert current_trace_id() == f"{1:032x}"
    batch = spans.ended["batch"]
    assert batch.parent is not None
    assert [link.context.span_id for link in batch.links] == [2]


def test_a_batch_of_several_traces_links_to_each(spans: Spans) -> None:
    with batch_span("batch", [RECORDED, NOT_RECORDED, OTHER_RECORDED]):
        assert current_trace_id() not in {f"{number:032x}" for number in (1, 2, 3)}
    batch = spans.ended["batch"]
    assert batch.parent is None
    assert [link.context.trace_id for link in batch.links] == [1, 3, 2]


def test_a_batch_is_recorded_only_if_one_of_its_traces_is(spans: Spans) -> None:
    spans.sample(1)
    with batch_span("none", [NOT_RECORDED, f"00-{4:032x}-{1:016x}-00"]):
        pass
    with batch_span("no cause", []):
        pass
    assert set(spans.ended) == {"no cause"}


def test_the_current_span_is_continued_where_it_is_of_the_same_trace(spans: Spans) -> None:
    with span("outer", RECORDED) as outer:
        start_span("same", ALSO_RECORDED).end()
        start_span("other", OTHER_RECORDED).end()
    same, other = spans.ended["same"].parent, spans.ended["other"].parent
    assert same is not None
    assert other is not None
    assert same.span_id == outer.get_span_context().span_id
    assert other.trace_id == 2


def test_a_step_is_a_span_only_inside_one_that_is_recorded(spans: Spans) -> None:
    with step("alone"), span("quiet", NOT_RECORDED), step("inside quiet"):
        pass
    with span("outer", RECORDED), step("inside"):
        link_to(OTHER_RECORDED)
        link_to("nonsense")
    assert set(spans.ended) == {"inside", "outer"}
    assert [link.context.trace_id for link in spans.ended["inside"].links] == [2]


def test_an_error_is_named_by_its_class_alone(spans: Spans) -> None:
    with pytest.raises(ValueError, match="hunter2"), span("failed", RECORDED):
        raise ValueError("password=hunter2")
    with work_span("marked", Origin(RECORDED)) as current:
        mark_failed(current, OSError("hunter2"))
    for name, error in {"failed": "ValueError", "marked": "OSError"}.items():
        ended = spans.ended[name]
        assert not ended.status.is_ok
        assert dict(ended.attributes or {})["error.type"] == error
        assert "hunter2" not in ended.to_json()


def test_without_recording_there_are_trace_ids_all_the_same(spans: Spans) -> None:
    spans.sample(0)
    with span("off"):
        assert current_trace_id() is not None
        assert not is_sampled(traceparent_of(trace.get_current_span()))
    spans.sample(1)
    with span("on") as current:
        assert is_sampled(traceparent_of(current))
    assert not is_sampled(None)
    assert set(spans.ended) == {"on"}


def test_without_a_collector_ids_are_made_and_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = tracer_provider("tests", settings())
    monkeypatch.setattr("service_runtime.tracing._TRACER", provider.get_tracer("tests"))
    with span("a") as outer:
        begun = traceparent_of(None)
        assert begun is not None
        assert not is_sampled(begun)
        assert current_trace_id() == begun[3:35]
        with span("b", begun) as inner:
            assert inner is outer
        with step("c"):
            assert traceparent_of(None) == begun
    assert current_trace_id() is None
    with span("d") as other:
        assert traceparent_of(other) != begun
    with span("e", RECORDED) as continued:
        found = traceparent_of(continued)
        assert found is not None
        assert found[3:35] == RECORDED[3:35]
        assert not is_sampled(found)
        assert not continued.is_recording()


@pytest.mark.parametrize("text", ["", "nonsense-00", f"00-{0:032x}-{1:016x}-00", "00-" + "g" * 32 + f"-{1:016x}-00"])
def test_what_is_no_traceparent_is_not_continued(spans: Spans, text: str) -> None:
    assert not is_not_recorded(text)
    with span("a", text) as begun:
        found = traceparent_of(begun)
        assert found is not None
        assert found != text
    assert is_not_recorded(NOT_RECORDED)
    assert not is_not_recorded(RECORDED)
    assert not is_not_recorded(None)


@pytest.mark.parametrize("sent", ["x" * 60_000, f"01-{4:032x}-{1:016x}-01-{'y' * 60_000}"])
def test_a_traceparent_of_a_stranger_is_not_kept_in_memory(sent: str) -> None:
    references = sys.getrefcount(sent)
    for _ in range(2):
        with span("GET", sent):
            pass
    assert sys.getrefcount(sent) == references
