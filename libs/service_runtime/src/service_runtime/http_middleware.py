"""ASGI middleware for public listeners: a bound on request bodies, and a trace, metrics and a log line per request."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import structlog
from opentelemetry.trace import format_trace_id
from prometheus_client import Histogram

from service_runtime.problems import CONTENT_TYPE, BodyTooLarge, encode_problem
from service_runtime.tracing import span

Scope = MutableMapping[str, Any]
AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_SECONDS: Final = Histogram(
    "http_request_seconds",
    "Time from a request's arrival to the end of its answer",
    ["method", "route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

log = structlog.get_logger(__name__)


class BodySizeLimit:
    """Answer 413 to a request whose body is larger than ``max_bytes``, whether or not it says so beforehand."""

    def __init__(self, app: AsgiApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = _header(scope, b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > self._max_bytes:
            await self._refuse(scope, send)
            return
        await self._count(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        received, too_large, started = 0, False, False

        async def counted() -> AsgiMessage:
            nonlocal received, too_large
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._max_bytes:
                    too_large = True
                    raise BodyTooLarge(max_bytes=self._max_bytes)
            return message

        async def watched(message: AsgiMessage) -> None:
            nonlocal started
            if too_large and not started:
                # Frameworks turn an error while reading into a 400 of their own; the 413 below is the right answer.
                return
            started = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except Exception:
            if not too_large or started:
                raise
        if too_large and not started:
            await self._refuse(scope, send)

    async def _refuse(self, scope: Scope, send: Send) -> None:
        body = encode_problem(BodyTooLarge(max_bytes=self._max_bytes), scope["path"])
        headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            # The rest of the body is not read.
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class RequestObservation:
    """Every request runs under a span that continues the caller's ``traceparent``, is measured by route, and logged.

    Server errors are logged as errors, other requests at debug level. The answer names its trace in ``Trace-Id``.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        with span(f"{scope['method']} request", _header(scope, b"traceparent")) as current:
            trace_id = format_trace_id(current.get_span_context().trace_id)

            async def named(message: AsgiMessage) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                    message["headers"] = [*message.get("headers", ()), (b"trace-id", trace_id.encode())]
                await send(message)

            try:
                await self._app(scope, receive, named)
            finally:
                _observe(scope, status, time.perf_counter() - began)


def _observe(scope: Scope, status: int, seconds: float) -> None:
    method = scope["method"] if scope["method"] in _METHODS else "other"
    REQUEST_SECONDS.labels(method, _route(scope), str(status)).observe(seconds)
    level = log.error if status >= 500 else log.debug
    level("http_request", method=method, path=scope["path"], status=status, milliseconds=round(seconds * 1000, 2))


def _route(scope: Scope) -> str:
    """The route's template: a label must not grow with what callers invent."""
    template = scope.get("path_template") or getattr(scope.get("route"), "path", None)
    return template if isinstance(template, str) else "unmatched"


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key.lower() == name:
            return bytes(value).decode("latin-1")
    return None
