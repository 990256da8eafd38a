"""The event stream of the signed-in user: everything that happens, in order, without loss; and progress, live."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BeforeValidator, Field

from gateway import queries
from gateway.dependencies import Dependencies
from gateway.domain import LARGEST_NUMBER, User, written_number
from gateway.errors import TooManyEventStreams
from gateway.events import ESTIMATED_EVENT, PROGRESS_EVENT
from gateway.live_events import Stream
from gateway.openapi import Responses, refusals
from gateway.routes.request_context import CurrentDependencies, CurrentUser
from gateway.routes.streamed_answers import StreamedAnswer
from gateway.tokens import MAX_STREAM_SECONDS
from messaging.database import DATABASE_ERRORS, is_unavailable
from service_runtime.backoff import Backoff

router = APIRouter(tags=["events"])

PAGE: Final = 100
_READ_AGAIN: Final = Backoff(first=timedelta(seconds=1), longest=timedelta(seconds=10))
"""While the database is away, a stream stays open and reads again: closing them all would double the load later."""
MEDIA_TYPE: Final = "text/event-stream"
HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

STREAM: Responses = {
    200: {
        "description": "Server-sent events. The schema is that of one event, with the JSON of its `data` parsed.",
        "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/StreamedEvent"}}},
    },
    **refusals(TooManyEventStreams),
}


def _none_if_empty(text: object) -> object:
    """A client that has no id yet may send an empty one."""
    return None if text == "" else text


@router.get("/v1/events", operation_id="streamEvents", response_class=StreamingResponse, responses=STREAM)
async def stream_events(
    dependencies: CurrentDependencies,
    user: CurrentUser,
    request: Request,
    last_event_id: Annotated[
        Annotated[int, Field(ge=0, le=LARGEST_NUMBER), BeforeValidator(written_number)] | None,
        BeforeValidator(_none_if_empty),
        Header(description="Resume after this event. Empty is the same as none."),
    ] = None,
) -> Response:
    """``generation.updated``, ``balance.updated`` and ``payment.updated`` have ids, and are never missed.

    ``generation.progress`` and ``generation.estimated`` have none, and may be.

    Without ``Last-Event-ID`` the stream begins now. It ends when the token expires, or after an hour: sign in again and
    resume.
    """
    if request.method == "HEAD":
        return Response(media_type=MEDIA_TYPE, headers=HEADERS)
    newest = await queries.last_sequence(dependencies.engine, user.user_id)
    # A number above the newest would silence the stream until the history reaches it.
    after = newest if last_event_id is None else min(last_event_id, newest)
    # Registered before the answer begins, so that a refusal is a plain one.
    place = contextlib.ExitStack()
    stream = place.enter_context(dependencies.live_events.streaming(user.user_id))
    return StreamedAnswer(_events(dependencies, user, stream, after), place, MEDIA_TYPE, HEADERS)


async def _events(dependencies: Dependencies, user: User, stream: Stream, after: int) -> AsyncIterator[bytes]:
    # The id alone dispatches nothing, but a client that loses the connection at once knows where it was.
    yield b"retry: 2000\nid: %d\n\n" % after
    clock = dependencies.clock
    ends_at = min(user.token_expires_at, clock.now() + MAX_STREAM_SECONDS)
    failures = 0
    while not dependencies.live_events.closing.is_set() and (remaining := ends_at - clock.now()) > 0:
        stream.wake.clear()
        for progress in stream.take_progress():
            yield _frame(PROGRESS_EVENT, msgspec.json.encode(progress))
        for estimate in stream.take_estimates():
            yield _frame(ESTIMATED_EVENT, msgspec.json.encode(estimate))
        try:
            records = await queries.list_history(dependencies.engine, user.user_id, after, PAGE)
        except DATABASE_ERRORS as error:
            if not is_unavailable(error):
                raise
            failures += 1
            yield b": the history cannot be read at the moment\n\n"
            await _wait_for(dependencies.live_events.closing, _READ_AGAIN.delay(failures, user.user_id).total_seconds())
            continue
        failures = 0
        for record in records:
            yield _frame(record.event, msgspec.json.encode({**record.data, "at": record.occurred_at}), record.sequence)
            after = record.sequence
        pause = min(dependencies.settings.heartbeat_seconds, remaining)
        # Less than a page is all there was when it was read; what came since has set the wake-up.
        due = len(records) == PAGE or stream.progress or stream.estimates
        if not due and not await _wait_for(stream.wake, pause):
            yield b": still here\n\n"


async def _wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Whether it came in time."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


def _frame(event: str, data: bytes, sequence: int | None = None) -> bytes:
    identity = b"" if sequence is None else b"id: %d\n" % sequence
    return identity + b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"
