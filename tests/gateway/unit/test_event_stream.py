"""The place of an event stream is given back, whatever becomes of its connection."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from gateway.errors import TooManyEventStreams
from gateway.live_events import LiveEvents
from gateway.routes.events import HEADERS, MEDIA_TYPE
from gateway.routes.streamed_answers import StreamedAnswer
from messaging.ids import new_id


async def test_a_client_that_leaves_before_the_first_byte_frees_its_place() -> None:
    news, user_id = LiveEvents(streams_per_user=1), new_id()

    async def body() -> AsyncIterator[bytes]:
        yield b"never asked for"

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        raise OSError("the connection is gone")

    for _ in range(3):
        place = contextlib.ExitStack()
        place.enter_context(news.streaming(user_id))
        with pytest.raises(TooManyEventStreams), news.streaming(user_id):
            pass
        with contextlib.suppress(ClientDisconnect, OSError):
            answer = StreamedAnswer(body(), place, MEDIA_TYPE, HEADERS)
            await answer({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)
    with news.streaming(user_id):
        pass
