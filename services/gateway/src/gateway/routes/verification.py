"""Saying whether a file was made here: free of charge, for everybody, and without a look into the file."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from gateway import queries
from gateway.errors import BodyTooSlow
from gateway.openapi import refusals
from gateway.representations import Verification, verification
from gateway.request_bodies import VerifyRequest
from gateway.routes.request_context import LIMITED_BY_ADDRESS, CurrentDependencies, address_of
from service_runtime.problems import BodyTooLarge, InvalidRequest, MalformedRequest, UnsupportedMediaType

router = APIRouter(tags=["verification"], dependencies=[LIMITED_BY_ADDRESS])

PATH: Final = "/v1/verify"
RECEIVE_SECONDS: Final = 120.0
"""The longest that a body may take."""
CUT_OFF_SECONDS: Final = RECEIVE_SECONDS + 10.0
"""When the listener ends a connection that is slower: after the answer that says so."""
MAX_JSON_BYTES: Final = 1024
_JSON: Final = "application/json"
_FILES: Final = ("application/octet-stream", "video/", "image/")
_BODIES: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            _JSON: {"schema": VerifyRequest.model_json_schema()},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.post(
    PATH,
    operation_id="verifyFile",
    openapi_extra=_BODIES,
    responses=refusals(BodyTooSlow),
)
async def verify_file(request: Request, dependencies: CurrentDependencies) -> Verification:
    """Ask whether Reelhouse made a file: send the file itself as the body, or its sha256 as JSON. Nothing is kept."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == _JSON:
        sha256 = _stated(await _received(request, MAX_JSON_BYTES))
    elif media_type.startswith(_FILES):
        with dependencies.admission.receiving_file(address_of(request)):
            sha256 = await _measured(request)
    else:
        taken = {"Accept": f"{_JSON}, application/octet-stream, video/*, image/*"}
        raise UnsupportedMediaType("send a file, or its sha256 as application/json", headers=taken)
    return verification(sha256, await queries.find_delivered_kind(dependencies.engine, sha256))


def _stated(body: bytes) -> str:
    try:
        return VerifyRequest.model_validate_json(body).sha256.lower()
    except ValidationError as error:
        if error.errors(include_input=False)[0]["type"] == "json_invalid":
            raise MalformedRequest("the body is no JSON") from error
        field = {"field": "sha256", "code": "invalid", "message": "the 64 hexadecimal digits of a sha256"}
        raise InvalidRequest(errors=[field]) from error


async def _received(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in _chunks(request):
        body += chunk
        if len(body) > max_bytes:
            raise BodyTooLarge(max_bytes=max_bytes)
    return bytes(body)


async def _measured(request: Request) -> str:
    """The sha256 of the body, which is not held."""
    digest = hashlib.sha256()
    async for chunk in _chunks(request):
        digest.update(chunk)
    return digest.hexdigest()


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """The body, as it comes. Raises ``BodyTooSlow``."""
    ends_at = asyncio.get_running_loop().time() + RECEIVE_SECONDS
    chunks = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout_at(ends_at):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except (TimeoutError, ClientDisconnect) as error:
            # The rest of the body is not read, so the connection cannot be used again.
            raise BodyTooSlow(headers={"Connection": "close", "Retry-After": "1"}) from error
        yield chunk
