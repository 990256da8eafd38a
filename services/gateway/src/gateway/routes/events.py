"""The event stream of the signed-in user: everything that happens, in order, without loss; and progress, live."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway import queries
from gateway.dependencies import CurrentParts, CurrentUser, Parts
from gateway.domain import LARGEST_NUMBER, User
from gateway.errors import TooManyEventStreams
from gateway.live_news import Stream
from gateway.openapi import Responses, refusals
from gateway.tokens import LONGEST_TRUST_SECONDS

router = APIRouter(tags=["events"])

PAGE = 100

STREAM: Responses = {
    200: {"description": "Server-sent events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
    **refusals(TooManyEventStreams),
}


@router.get("/v1/events", operation_id="streamEvents", response_class=StreamingResponse, responses=STREAM)
async def stream_events(
    parts: CurrentParts,
    user: CurrentUser,
    last_event_id: Annotated[
        int | None, Header(ge=0, le=LARGEST_NUMBER, description="Resume after this event.")
    ] = None,
) -> StreamingResponse:
    """``generation.updated``, ``balance.updated``, ``payment.updated`` with ids; ``generation.progress`` without.

    Without ``Last-Event-ID`` the stream begins now. It ends when the token expires, or after an hour: sign in again and
    resume.
    """
    newest = await queries.last_sequence(parts.engine, user.user_id)
    # A number that was never given would make the stream deaf until it is.
    after = newest if last_event_id is None else min(last_event_id, newest)
    # Registered before the answer begins, so that a refusal is a plain one.
    registration = contextlib.ExitStack()
    stream = registration.enter_context(parts.news.streaming(user.user_id))
    return EventStream(_events(parts, user, stream, after), registration)


class EventStream(StreamingResponse):
    """Gives the stream's place back however the answer ends, even if its first byte is never asked for."""

    def __init__(self, body: AsyncIterator[bytes], registration: contextlib.ExitStack) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(body, media_type="text/event-stream", headers=headers)
        self._registration = registration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._registration:
            await super().__call__(scope, receive, send)


async def _events(parts: Parts, user: User, stream: Stream, after: int) -> AsyncIterator[bytes]:
    # The id alone dispatches nothing, but a client that loses the connection at once knows where it was.
    yield b"retry: 2000\nid: %d\n\n" % after
    ends_at = min(user.token_expires_at, time.time() + LONGEST_TRUST_SECONDS)
    while not parts.news.closing.is_set() and (remaining := ends_at - time.time()) > 0:
        stream.wake.clear()
        for progress in _taken(stream):
            yield _frame("generation.progress", msgspec.json.encode(progress))
        rows = await queries.list_activity(parts.engine, user.user_id, after, PAGE)
        for row in rows:
            yield _frame(row.event, msgspec.json.encode(row.data | {"at": row.occurred_at}), row.sequence)
            after = row.sequence
        if not rows and not stream.progress:
            try:
                async with asyncio.timeout(min(parts.settings.heartbeat_seconds, remaining)):
                    await stream.wake.wait()
            except TimeoutError:
                yield b": still here\n\n"


def _taken(stream: Stream) -> list[Any]:
    taken = list(stream.progress.values())
    stream.progress.clear()
    return taken


def _frame(event: str, data: bytes, sequence: int | None = None) -> bytes:
    identity = b"" if sequence is None else b"id: %d\n" % sequence
    return identity + b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"
