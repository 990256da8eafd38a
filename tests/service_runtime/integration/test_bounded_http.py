"""An answer that unpacks to far more than it is, and one that is too large, cost what was asked for and no more."""

import gzip
import tracemalloc
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from service_runtime.bounded_http import AnswerRefused, bounded_client
from tests.support.serving import listening_socket, serving

LIMIT_BYTES = 64 * 1024
BOMB = gzip.compress(gzip.compress(bytes(64 * 1024 * 1024)))


def bomb(_: Request) -> Response:
    return Response(BOMB, headers={"content-encoding": "gzip, gzip"})


def large(_: Request) -> Response:
    async def zeros() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield bytes(8192)

    return StreamingResponse(zeros())


def small(request: Request) -> Response:
    return Response(b"as it is", headers={"x-asked": request.headers["accept-encoding"]})


async def streamed(client: httpx.AsyncClient, url: str) -> None:
    async with client.stream("GET", url) as response:
        async for _ in response.aiter_bytes():
            pass


@pytest.fixture
async def url() -> AsyncIterator[str]:
    listener, url = listening_socket()
    routes = [Route(f"/{answer.__name__}", answer) for answer in (bomb, large, small)]
    async with serving(Starlette(routes=routes), listener):
        yield url


@pytest.mark.parametrize("answer", ["bomb", "large"])
async def test_an_answer_beyond_the_limit_is_refused_and_not_held(url: str, answer: str) -> None:
    async with bounded_client(LIMIT_BYTES) as client:
        await client.get(f"{url}/small")
        tracemalloc.start()
        with pytest.raises(AnswerRefused):
            await client.get(f"{url}/{answer}")
        with pytest.raises(AnswerRefused):
            await streamed(client, f"{url}/{answer}")
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak_bytes < 20 * LIMIT_BYTES
        assert (await client.get(f"{url}/small")).content == b"as it is", "the client goes on"


async def test_answers_are_asked_for_as_they_are(url: str) -> None:
    async with bounded_client(LIMIT_BYTES, timeout=httpx.Timeout(5)) as client:
        assert (await client.get(f"{url}/small")).headers["x-asked"] == "identity"
