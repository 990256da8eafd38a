"""A file at a foreign address: what passes is waited for, what cannot be fetched is said to be no file."""

import hashlib
import socket
from collections.abc import Callable

import httpx
import pytest

from generation.domain.provider_reports import OutputReturned, OutputUploaded
from generation.public_addresses import PublicFetcher, resolve
from generation.returned_files import FileUnreachable, ReturnedFiles, UnusableFile
from service_runtime.presigned_urls import PresignedUrls

Answer = Callable[[httpx.Request], httpx.Response]
PICTURE = b"\x89PNG and so on"


async def a_public_address(_: str) -> list[str]:
    return ["93.184.216.34"]


async def store(url: str, answer: Answer, resolver: Callable[..., object] = a_public_address) -> OutputUploaded:
    """Fetch from ``url``, whose owner answers with ``answer``, and put it into a bucket that accepts everything."""
    untrusted = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    bucket = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200)))
    files = ReturnedFiles(
        bucket,
        PublicFetcher(untrusted, resolver),  # type: ignore[arg-type]
        PresignedUrls("https://bucket.example.com", "auto", "key", "secret"),
        "incoming",
    )
    returned = OutputReturned(job_id="job", filename="a.png", is_url=True, data=url)
    return await files.store(returned, "generation/1/output.png", 1000)


@pytest.mark.parametrize("status", [500, 503, 429, 408])
async def test_an_address_that_is_down_is_tried_again_later(status: int) -> None:
    with pytest.raises(FileUnreachable):
        await store("https://files.example.com/a.png", lambda _: httpx.Response(status))
    uploaded = await store("https://files.example.com/a.png", lambda _: httpx.Response(200, content=PICTURE))
    assert uploaded.sha256 == hashlib.sha256(PICTURE).hexdigest()


@pytest.mark.parametrize("status", [403, 404, 302])
async def test_an_address_without_the_file_is_not_tried_again(status: int) -> None:
    with pytest.raises(UnusableFile):
        await store("https://files.example.com/a.png", lambda _: httpx.Response(status))


async def test_a_name_server_that_does_not_answer_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(FileUnreachable):
        await store("https://files.example.com/a.png", lambda _: httpx.Response(200), resolve)


@pytest.mark.parametrize(
    "url",
    [
        "https://[files/a.png",
        "https://files.example.com:port/a.png",
        "https://files.example.com/\0.png",
        "https://bücher.example.com/a.png",
        f"https://{'a' * 64}.example.com/a.png",
    ],
)
async def test_an_invalid_address_is_not_tried_again(url: str) -> None:
    async def long_labels_are_refused(host: str) -> list[str]:
        host.encode("idna")
        return await a_public_address(host)

    with pytest.raises(UnusableFile):
        await store(url, lambda _: httpx.Response(200, content=PICTURE), long_labels_are_refused)
