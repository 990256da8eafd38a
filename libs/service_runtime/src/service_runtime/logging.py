"""Logs: one JSON object per line on standard output, from structlog and from libraries alike."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Protocol

import msgspec
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

from service_runtime.redaction import redact, redact_value

_QUIET = (
    "uvicorn",
    "uvicorn.error",
    "alembic",
    "nats",
    "asyncio",
    "httpx",
    "httpcore",
    "botocore",
    "aiobotocore",
    "stripe",
    "service_runtime.fair_pool",  # SQLAlchemy logs under the module of the pool's class
)
"""Libraries whose INFO lines say nothing that ours do not."""


class LogSettings(Protocol):
    """The part of the settings that logging needs."""

    @property
    def log_level(self) -> str: ...
    @property
    def log_format(self) -> str: ...


def configure_logging(service: str, settings: LogSettings) -> None:
    """Set up structlog and the standard library's logging. Call it once, first thing in ``main``."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _service_name(service),
        _trace_ids,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _redacted,
    ]
    renderer: Processor = structlog.processors.JSONRenderer(serializer=_json)
    if settings.log_format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared[:-1], structlog.stdlib.ExtraAdder(), _redacted],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _service_name(service: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    return add


def _trace_ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event.setdefault("trace_id", trace.format_trace_id(context.trace_id))
    return event


def _redacted(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in list(event.items()):
        # Names that begin with an underscore are structlog's own and never printed.
        if not key.startswith("_"):
            event[key] = redact(value) if key == "event" and isinstance(value, str) else redact_value(value, key)
    return event


def _json(event: MutableMapping[str, Any], **_options: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
