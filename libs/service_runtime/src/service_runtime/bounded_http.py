"""HTTP clients that believe no answer's size: the bytes that arrive are counted, and none are unpacked.

640 bytes of gzip inside gzip unpack to more than a gigabyte, before anything that reads the text could count. So every
client of ours asks for answers as they are, and an answer that is encoded all the same is not read.
"""

from collections.abc import AsyncIterator
from typing import Any

import httpx

from service_runtime.authorities import trusted_authorities


class AnswerRefused(httpx.DecodingError):
    """The answer is encoded, or larger than this client reads. Callers treat it as any other broken answer."""


def bounded_client(max_answer_bytes: int, **options: Any) -> httpx.AsyncClient:
    """An ``httpx.AsyncClient`` whose calls raise ``AnswerRefused`` beyond ``max_answer_bytes`` of body.

    ``options`` are the client's own. A body that is streamed is counted while it is read.
    """

    async def bound_response(response: httpx.Response) -> None:
        bound(response, max_answer_bytes)

    authorities = trusted_authorities(options.get("trust_env", True))
    client = httpx.AsyncClient(verify=authorities, **options)
    client.headers["accept-encoding"] = "identity"
    client.event_hooks["response"].append(bound_response)
    return client


def bound(response: httpx.Response, max_answer_bytes: int) -> None:
    """Before the body of ``response`` is read: have that raise ``AnswerRefused`` beyond ``max_answer_bytes``.

    Raises ``AnswerRefused`` if the body is encoded.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise AnswerRefused("the answer is encoded although that was not asked for", request=response.request)
    assert isinstance(response.stream, httpx.AsyncByteStream)
    response.stream = _CountedStream(response.stream, max_answer_bytes, response.request)


class _CountedStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, max_bytes: int, request: httpx.Request) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size_bytes = 0
        async for chunk in self._stream:
            size_bytes += len(chunk)
            if size_bytes > self._max_bytes:
                raise AnswerRefused(f"the answer is larger than {self._max_bytes} bytes", request=self._request)
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
