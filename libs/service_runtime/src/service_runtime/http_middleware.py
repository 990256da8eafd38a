"""ASGI middleware for public listeners: a bound on request bodies, and a trace, metrics and a log line per request."""

import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qs

import structlog
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id
from prometheus_client import Histogram

from service_runtime.problems import CONTENT_TYPE, BodyTooLarge, InternalError, Problem, encode_problem
from service_runtime.tracing import current_traceparent, mark_failed, span

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
_SAFETY: Final = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
_NO_PAGE: Final = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
"""An answer that is no page may load and run nothing, should a browser show it. A page brings its own policy."""
_TLS_ONLY: Final = (b"strict-transport-security", b"max-age=31536000")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

log = structlog.get_logger(__name__)


class BodySizeLimit:
    """Answer 413 to a request whose body is larger than ``max_bytes``, whether or not it says so beforehand.

    ``larger`` names the paths that take more, each with its own bound.
    """

    def __init__(self, app: AsgiApp, max_bytes: int, larger: Mapping[str, int] | None = None) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._larger = dict(larger or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._larger.get(scope["path"], self._max_bytes)
        declared = _header(scope, b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > max_bytes:
            await self._refuse(scope, send, max_bytes)
            return
        await self._count(scope, receive, send, max_bytes)

    async def _count(self, scope: Scope, receive: Receive, send: Send, max_bytes: int) -> None:
        received, too_large, started = 0, False, False

        async def counted() -> AsgiMessage:
            nonlocal received, too_large
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > max_bytes:
                    too_large = True
                    raise BodyTooLarge(max_bytes=max_bytes)
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
            await self._refuse(scope, send, max_bytes)

    async def _refuse(self, scope: Scope, send: Send, max_bytes: int) -> None:
        # The rest of the body is not read, so the connection cannot be used again.
        problem = BodyTooLarge(max_bytes=max_bytes)
        await _send_problem(send, problem, scope["path"], (b"connection", b"close"))


class RequestObservation:
    """Every request runs under a span that continues the caller's ``traceparent``, is measured by route, and logged.

    Server errors are logged as errors, other requests at debug level. The answer names its trace in ``Trace-Id``, and
    tells browsers to be careful with it.
    An exception that the application let through is logged here, inside the span, and answered with a problem.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        with span(_method(scope), _traceparent(scope), kind=SpanKind.SERVER) as current:
            # Frameworks with tracing of their own read the caller's header: they are to continue this span instead.
            scope["headers"] = [*(h for h in scope["headers"] if h[0] != b"traceparent"), *_traceparent_header()]
            trace_id = format_trace_id(current.get_span_context().trace_id)
            answer = _Answer(send, trace_id, encrypted=scope.get("scheme") == "https")
            try:
                await self._app(scope, receive, answer.send)
            except Exception as error:
                mark_failed(current, error)
                log.exception("request_failed", method=scope["method"], path=scope["path"])
                await answer.fail(scope["path"])
            finally:
                _observe(scope, answer, time.perf_counter() - began)
                _describe(current, scope, answer.status)


class _Answer:
    """The answer on its way out."""

    def __init__(self, send: Send, trace_id: str, *, encrypted: bool) -> None:
        self.status = 500
        self._send = send
        self._encrypted = encrypted
        self.trace_id = trace_id
        self._started = False
        self._ended = False

    async def send(self, message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            self.status = message["status"]
            own = list(message.get("headers", ()))
            message["headers"] = [*own, (b"trace-id", self.trace_id.encode()), *self._safety(own)]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._ended = True
        await self._send(message)

    def _safety(self, own: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """What keeps a browser from guessing, telling and running more than it should. An answer's own word stands."""
        values = {name.lower(): value for name, value in own}
        is_page = values.get(b"content-type", b"").startswith(b"text/html")
        wanted = [*_SAFETY, *([] if is_page else [_NO_PAGE]), *([_TLS_ONLY] if self._encrypted else [])]
        return [header for header in wanted if header[0] not in values]

    async def fail(self, path: str) -> None:
        """Called inside an exception handler: answer if nothing was answered, break off if only half of it was."""
        if self._ended:
            return
        if self._started:
            # The server closes the connection, so that the caller sees a broken answer.
            raise
        await _send_problem(self.send, InternalError(trace_id=self.trace_id), path)


def _observe(scope: Scope, answer: _Answer, seconds: float) -> None:
    status = answer.status
    method = _method(scope)
    REQUEST_SECONDS.labels(method, _route(scope), str(status)).observe(seconds, {"trace_id": answer.trace_id})
    level = log.error if status >= 500 else log.debug
    level("http_request", method=method, path=scope["path"], status=status, milliseconds=round(seconds * 1000, 2))


def _describe(current: Span, scope: Scope, status: int) -> None:
    """Name the span by its route. The path itself stays out: it may hold the right to call it."""
    if current.is_recording():
        method, route = _method(scope), _route(scope)
        current.update_name(f"{method} {route}")
        current.set_attributes(
            {"http.request.method": method, "http.route": route, "http.response.status_code": status}
        )
        if status >= 500:
            current.set_status(StatusCode.ERROR)


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else "other"


def _route(scope: Scope) -> str:
    """The route's template: a label must not grow with what callers invent."""
    template = scope.get("path_template") or getattr(scope.get("route"), "path", None)
    return template if isinstance(template, str) else "unmatched"


def _traceparent(scope: Scope) -> str | None:
    """From the header, or from the query: a caller that is only given an address (a webhook) sends no header."""
    given = _header(scope, b"traceparent")
    if given is None and b"traceparent=" in scope["query_string"]:
        values = parse_qs(scope["query_string"].decode("latin-1")).get("traceparent", [])
        given = values[0] if values else None
    return given


def _traceparent_header() -> list[tuple[bytes, bytes]]:
    traceparent = current_traceparent()
    return [] if traceparent is None else [(b"traceparent", traceparent.encode())]


async def _send_problem(send: Send, problem: Problem, path: str, *headers: tuple[bytes, bytes]) -> None:
    body = encode_problem(problem, path)
    own = {"content-type": CONTENT_TYPE, "content-length": str(len(body)), **problem.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in own.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": [*encoded, *headers]})
    await send({"type": "http.response.body", "body": body})


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key.lower() == name:
            return bytes(value).decode("latin-1")
    return None
