"""What the routes work with, and who is asking."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from catalogue import Catalogue
from catalogue.credit_packs import CreditPack
from gateway.domain import Cursor, User, decode_cursor
from gateway.errors import IdempotencyKeyMissing, InvalidCursor
from gateway.live_news import LiveNews
from gateway.representations import Download
from gateway.settings import Settings
from gateway.tokens import Tokens
from messaging.transaction import Transactions
from service_runtime.presigned_urls import PresignedUrls

LONGEST_KEY = 200


@dataclass(frozen=True)
class Parts:
    """Everything that a route may need; made once, by ``main``."""

    settings: Settings
    engine: AsyncEngine
    transactions: Transactions
    catalogue: Catalogue
    packs: dict[str, CreditPack]
    tokens: Tokens
    news: LiveNews
    urls: PresignedUrls

    def download_of(self, row: Row[Any]) -> Download | None:
        """Fresh links to the file of a completed generation. The row was read by its owner."""
        if row.status != "completed" or row.object_key is None or row.media is None:
            return None
        validity = timedelta(seconds=self.settings.download_url_seconds)
        bucket = self.settings.s3_library_bucket
        return Download(
            url=self.urls.get(bucket, row.object_key, validity),
            poster_url=self.urls.get(bucket, row.poster_object_key, validity),
            expires_at=datetime.now(UTC) + validity,
            content_type=row.media["content_type"],
            size_bytes=row.size_bytes,
            sha256=row.sha256,
            width_pixels=row.media["width_pixels"],
            height_pixels=row.media["height_pixels"],
            duration_ms=row.media.get("duration_ms"),
            frames_per_second=row.media.get("frames_per_second"),
        )


# All of these are coroutines: FastAPI sends a plain function to a thread, which costs more than what it does.
async def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def _user(
    request: Request, response: Response, authorization: Annotated[str | None, Header(include_in_schema=False)] = None
) -> User:
    # What is one user's own is kept by no cache.
    response.headers["Cache-Control"] = "no-store"
    return await (await _parts(request)).tokens.user_of(authorization)


async def _idempotency_key(
    idempotency_key: Annotated[
        str | None, Header(description="Chosen by you, at most 200 characters; repeating it repeats nothing.")
    ] = None,
) -> str:
    if not idempotency_key or len(idempotency_key) > LONGEST_KEY:
        raise IdempotencyKeyMissing(f"send a key of 1 to {LONGEST_KEY} characters, for example a UUID")
    return idempotency_key


async def _cursor(cursor: str | None = None) -> Cursor | None:
    if cursor is None:
        return None
    decoded = decode_cursor(cursor)
    if decoded is None:
        raise InvalidCursor("take the cursor from the page before, unchanged")
    return decoded


CurrentParts = Annotated[Parts, Depends(_parts)]
CurrentUser = Annotated[User, Depends(_user)]
IdempotencyKey = Annotated[str, Depends(_idempotency_key)]
PageCursor = Annotated[Cursor | None, Depends(_cursor)]
