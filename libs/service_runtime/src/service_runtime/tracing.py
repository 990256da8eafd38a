"""Traces: every process makes W3C trace ids; they are exported only where an endpoint is set."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service_runtime.settings import ServiceSettings

_PROPAGATOR: Final = TraceContextTextMapPropagator()


def configure_tracing(service: str, settings: ServiceSettings) -> None:
    """Make this process produce trace ids, and export spans if ``settings.otlp_endpoint`` is set. Once per process."""
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    if settings.otlp_endpoint is not None:
        _export(provider, settings.otlp_endpoint)
    trace.set_tracer_provider(provider)


def flush_traces(timeout_seconds: float) -> None:
    """Send what is still buffered; called when the process stops."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush(int(timeout_seconds * 1000))


def current_traceparent() -> str | None:
    """The W3C ``traceparent`` of what is being done now, or None outside any span."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent")


def current_trace_id() -> str | None:
    """32 hexadecimal digits, or None outside any span."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


@contextmanager
def span(name: str, traceparent: str | None = None) -> Iterator[trace.Span]:
    """Do something under a span, which continues ``traceparent`` if that is given and valid."""
    parent: Context | None = None
    if traceparent is not None:
        parent = _PROPAGATOR.extract({"traceparent": traceparent})
    with trace.get_tracer("reelhouse").start_as_current_span(name, context=parent) as current:
        yield current


def _export(provider: TracerProvider, endpoint: str) -> None:
    # Here, because a process that exports nothing has no use for protobuf and an HTTP client.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
