"""What routes ask for by their parameters' types: the dependencies, the signed-in user, the idempotency key."""

from typing import Annotated, Final

import structlog
from fastapi import Depends, Header, Query, Request, Response

from gateway.dependencies import Dependencies
from gateway.domain import Cursor, User, decode_cursor
from gateway.errors import IdempotencyKeyMissing, InvalidCursor

MAX_KEY_LENGTH: Final = 200
MAX_CURSOR_LENGTH: Final = 200


# All of these are coroutines: FastAPI runs a plain function in a thread, which costs more than the function does.
async def _dependencies(request: Request) -> Dependencies:
    dependencies: Dependencies = request.app.state.dependencies
    return dependencies


async def _user(request: Request, response: Response) -> User:
    # No cache keeps what belongs to one user.
    response.headers["Cache-Control"] = "no-store"
    dependencies = await _dependencies(request)
    authorization = request.headers.get("Authorization")
    user = dependencies.tokens.known_user(authorization)
    if user is None:
        with dependencies.admission.signing_in(address_of(request)):
            user = await dependencies.tokens.user_of(authorization)
    dependencies.admission.take_request(user.user_id)
    # For every log line of this request.
    structlog.contextvars.bind_contextvars(user_id=str(user.user_id))
    await dependencies.signups.welcome(user)
    return user


async def _anonymous(request: Request) -> None:
    """A route that anybody may call is limited by address."""
    (await _dependencies(request)).admission.take_anonymous(address_of(request))


def address_of(request: Request) -> str:
    """The address of the caller, as the server knows it."""
    return "unknown" if request.client is None else request.client.host


async def _idempotency_key(
    idempotency_key: Annotated[
        str | None,
        Header(
            description="Chosen by you, at most 200 characters; repeating it repeats nothing.",
            json_schema_extra={"minLength": 1, "maxLength": MAX_KEY_LENGTH},
        ),
    ] = None,
) -> str:
    if not idempotency_key or len(idempotency_key) > MAX_KEY_LENGTH:
        raise IdempotencyKeyMissing(f"send a key of 1 to {MAX_KEY_LENGTH} characters, for example a UUID")
    return idempotency_key


async def _cursor(cursor: Annotated[str | None, Query(max_length=MAX_CURSOR_LENGTH)] = None) -> Cursor | None:
    if cursor is None:
        return None
    decoded = decode_cursor(cursor)
    if decoded is None:
        raise InvalidCursor("take the cursor from the page before, unchanged")
    return decoded


CurrentDependencies = Annotated[Dependencies, Depends(_dependencies)]
CurrentUser = Annotated[User, Depends(_user)]
LIMITED_BY_ADDRESS: Final = Depends(_anonymous)
IdempotencyKey = Annotated[str, Depends(_idempotency_key)]
PageCursor = Annotated[Cursor | None, Depends(_cursor)]
