"""HTTP/1.1 for untrusted callers: what they send before a handler sees it is bounded in size and time.

uvicorn bounds neither with httptools. Bodies are bounded by ``BodySizeLimit``, which sees them.
"""

import asyncio
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import structlog
from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service_runtime.problems import CONTENT_TYPE, HeadersTooLarge, MalformedRequest, Problem, encode_problem

LARGEST_HEAD_BYTES: Final = 64 * 1024
"""Request line and headers together; a little more where they come in one piece."""

CUT_OFF: Final = Counter("http_cut_off_total", "Connections ended by us before a whole request had come.", ["reason"])

log = structlog.get_logger(__name__)


class BoundedHttpProtocol(HttpToolsProtocol):
    """A connection must bring each request within ``request_seconds``, the first from when it was opened.

    Of a request for one of the ``slow_paths``, the body may take the seconds that stand there.
    """

    def __init__(
        self, *arguments: Any, request_seconds: float, slow_paths: Mapping[str, float], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._request_seconds = request_seconds
        self._slow_paths = slow_paths
        self._head_bytes = 0
        self._in_head = True
        self._body_came = False
        self._in_message = True
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The time for the first request begins."""
        super().connection_made(transport)
        self._begin(self._request_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes and is no body: a head, trailers, what stands between chunks."""
        self._body_came = False
        super().data_received(data)
        if self._body_came or not self._in_message or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > LARGEST_HEAD_BYTES:
            self._refuse_head()

    def on_message_begin(self) -> None:
        """The time for a request on a connection that was kept begins."""
        super().on_message_begin()
        self._in_head, self._in_message, self._head_bytes = True, True, 0
        if self._deadline is None:
            self._begin(self._request_seconds)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Headers only: trailers come after the body, and no handler reads them."""
        if self._in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._body_came, self._head_bytes = True, 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """From here on the body comes, which ``BodySizeLimit`` counts."""
        self._in_head, self._head_bytes = False, 0
        super().on_headers_complete()
        body_seconds = self._slow_paths.get(self.scope["path"])
        if body_seconds is not None:
            self._end()
            self._begin(body_seconds)

    def on_message_complete(self) -> None:
        """The request is here."""
        self._in_message = False
        self._end()
        super().on_message_complete()

    def _begin(self, seconds: float) -> None:
        self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        CUT_OFF.labels("too_slow").inc()
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP. uvicorn's own answer would be plain text."""
        self._refuse(MalformedRequest("this is not HTTP/1.1"))

    def _refuse_head(self) -> None:
        self._refuse(HeadersTooLarge(max_bytes=LARGEST_HEAD_BYTES))

    def _refuse(self, problem: Problem) -> None:
        """Answer what no handler will see, under a trace of its own, and close the connection."""
        CUT_OFF.labels(problem.code).inc()
        trace_id = secrets.token_hex(16)
        log.info("request_refused", code=problem.code, trace_id=trace_id)
        body = encode_problem(problem, "/")
        status = HTTPStatus(problem.status)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nconnection: close\r\ntrace-id: {trace_id}\r\n"
            f"content-type: {CONTENT_TYPE}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
