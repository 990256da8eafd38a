"""The event stream of the signed-in user: everything that happens, in order, without loss; and progress, live."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse

from gateway import queries
from gateway.dependencies import CurrentParts, CurrentUser, Parts
from gateway.domain import User
from gateway.live_news import Stream

router = APIRouter(tags=["events"])

PAGE = 100

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-sent events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


@router.get("/v1/events", operation_id="streamEvents", response_class=StreamingResponse, responses=STREAM)
async def stream_events(
    parts: CurrentParts,
    user: CurrentUser,
    last_event_id: Annotated[int | None, Header(ge=0, description="Resume after this event.")] = None,
) -> StreamingResponse:
    """``generation.updated``, ``balance.updated``, ``payment.updated`` with ids; ``generation.progress`` without.

    Without ``Last-Event-ID`` the stream begins now. It ends when the token expires: sign in again and resume.
    """
    after = last_event_id
    if after is None:
        after = await queries.last_sequence(parts.engine, user.user_id)
    # Registered before the answer begins, so that a refusal is a plain one.
    registration = contextlib.ExitStack()
    stream = registration.enter_context(parts.news.streaming(user.user_id))
    body = _events(parts, user, stream, after, registration)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(body, media_type="text/event-stream", headers=headers)


async def _events(
    parts: Parts, user: User, stream: Stream, after: int, registration: contextlib.ExitStack
) -> AsyncIterator[bytes]:
    with registration:
        yield b"retry: 2000\n\n"
        while not parts.news.closing.is_set() and time.time() < user.token_expires_at:
            stream.wake.clear()
            for progress in _taken(stream):
                yield _frame("generation.progress", msgspec.json.encode(progress))
            rows = await queries.list_activity(parts.engine, user.user_id, after, PAGE)
            for row in rows:
                yield _frame(row.event, msgspec.json.encode(row.data | {"at": row.occurred_at}), row.sequence)
                after = row.sequence
            if not rows and not stream.progress:
                try:
                    async with asyncio.timeout(parts.settings.heartbeat_seconds):
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
