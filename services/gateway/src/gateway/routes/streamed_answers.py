"""Answers that come piece by piece, of which a user may have so many at a time."""

import contextlib
from collections.abc import AsyncIterator, Mapping

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class StreamedAnswer(StreamingResponse):
    """Gives its place back however the answer ends, even if it never begins."""

    def __init__(
        self,
        body: AsyncIterator[bytes] | AsyncIterator[str],
        place: contextlib.ExitStack,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(body, media_type=media_type, headers=headers)
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place:
            await super().__call__(scope, receive, send)
