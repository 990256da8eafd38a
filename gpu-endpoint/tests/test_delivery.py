"""Fetching, posting and uploading over HTTP, with answers made up by the test."""

import asyncio
import hashlib
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gpu_endpoint import inputs, progress, upload
from gpu_endpoint.failures import InputUnavailable, InvalidInput, OutputTooLarge, UploadFailed
from gpu_endpoint.job import InputImage, RenderJob
from gpu_endpoint.progress import Progress, progress_posts
from tests.conftest import until

Respond = Callable[[httpx.Request], httpx.Response]


def client(respond: Respond) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(respond))


def answers(*outcomes: int | Exception) -> tuple[Respond, list[httpx.Request]]:
    """Give the outcomes in order, the last for ever."""
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        outcome = outcomes[min(len(seen), len(outcomes) - 1)]
        seen.append(request)
        if isinstance(outcome, Exception):
            raise outcome
        return httpx.Response(outcome, stream=httpx.ByteStream(b"picture"))

    return respond, seen


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_PAUSES_SECONDS", (0.0,) * 5)
    monkeypatch.setattr(inputs, "_PAUSES_SECONDS", (0.0,) * 2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "output.mp4"
    path.write_bytes(bytes(range(256)) * 3000)
    return path


async def test_the_checksum_is_of_what_was_sent(make_job: Callable[..., RenderJob], file: Path) -> None:
    bodies: list[bytes] = []

    def respond(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return httpx.Response(200)

    async with client(respond) as http:
        uploaded = await upload.upload(http, file, make_job().output)
    assert bodies == [file.read_bytes()]
    assert uploaded.sha256 == hashlib.sha256(bodies[0]).hexdigest()
    assert uploaded.size_bytes == len(bodies[0])


@pytest.mark.parametrize("trouble", [500, 503, 429, httpx.ConnectError("x"), httpx.ReadTimeout("x")])
async def test_an_upload_outlives_passing_trouble(make_job: Callable[..., RenderJob], file: Path, trouble: Any) -> None:
    respond, seen = answers(trouble, trouble, 200)
    async with client(respond) as http:
        uploaded = await upload.upload(http, file, make_job().output)
    assert len(seen) == 3
    assert uploaded.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert {request.headers["content-length"] for request in seen} == {str(file.stat().st_size)}
    assert {request.headers["content-type"] for request in seen} == {"video/mp4"}


@pytest.mark.parametrize(("trouble", "tries"), [(500, 6), (403, 1), (httpx.ConnectError("x"), 6)])
async def test_an_upload_gives_up(make_job: Callable[..., RenderJob], file: Path, trouble: Any, tries: int) -> None:
    respond, seen = answers(trouble)
    async with client(respond) as http:
        with pytest.raises(UploadFailed) as caught:
            await upload.upload(http, file, make_job().output)
    assert len(seen) == tries
    assert "signature" not in caught.value.as_error()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_upload_takes_the_same_memory_however_large_the_file(
    make_job: Callable[..., RenderJob], tmp_path: Path
) -> None:
    large = tmp_path / "large.mp4"
    with large.open("wb") as file:
        file.truncate(192 * 2**20)

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        remaining = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        while remaining > 0:
            remaining -= len(await reader.read(min(remaining, 2**20)))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    output = msgspec.structs.replace(
        make_job().output, put_url=f"http://{host}:{port}/put", max_size_bytes=large.stat().st_size
    )
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    async with server, httpx.AsyncClient() as http:
        uploaded = await upload.upload(http, large, output)
    assert uploaded.size_bytes == large.stat().st_size
    assert resident_bytes("VmHWM") - before < 24 * 2**20


def resident_bytes(kind: str) -> int:
    """Memory of this process: ``VmRSS`` now, or ``VmHWM`` at the most since the count was reset."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind)]
    return int(line.split()[1]) * 1024


async def test_cancelled_upload_leaves_the_store_with_half_a_request(
    make_job: Callable[..., RenderJob], tmp_path: Path
) -> None:
    """A store keeps no object of a request that ended before its stated length."""
    large = tmp_path / "large.mp4"
    with large.open("wb") as file:
        file.truncate(64 * 2**20)
    began, ended = asyncio.Event(), asyncio.Event()

    async def take_half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2**20)
        began.set()
        rest = await reader.read()
        assert len(rest) < 2**26 - 2**20
        ended.set()
        writer.close()

    server = await asyncio.start_server(take_half, "127.0.0.1", 0, limit=2**16)
    host, port = server.sockets[0].getsockname()
    output = msgspec.structs.replace(make_job().output, put_url=f"http://{host}:{port}/put", max_size_bytes=2**30)
    async with server, httpx.AsyncClient() as http, asyncio.timeout(10):
        uploading = asyncio.create_task(upload.upload(http, large, output))
        await began.wait()
        uploading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await uploading
        await ended.wait()


async def test_a_file_too_large_is_not_sent(make_job: Callable[..., RenderJob], file: Path) -> None:
    file.write_bytes(b"x" * 1_000_001)
    respond, seen = answers(200)
    async with client(respond) as http:
        with pytest.raises(OutputTooLarge):
            await upload.upload(http, file, make_job().output)
    assert seen == []


IMAGE = InputImage(name="image.png", url="http://store/image?signature=secret")


async def test_a_picture_is_fetched_in_spite_of_passing_trouble(tmp_path: Path) -> None:
    respond, seen = answers(503, httpx.ReadError("x"), 200)
    async with client(respond) as http:
        [path] = await inputs.fetch_images(http, [IMAGE], tmp_path / "inputs")
    assert path.read_bytes() == b"picture"
    assert len(seen) == 3


@pytest.mark.parametrize("encoding", ["gzip", "br"])
async def test_picture_is_the_bytes_in_the_bucket_whatever_encoding_its_owner_stated(
    tmp_path: Path, encoding: str
) -> None:
    """Who uploads may state any encoding, and a store may unpack, or pack, for who takes it: storage takes none."""

    def respond(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-encoding"] == "identity"
        return httpx.Response(200, headers={"content-encoding": encoding}, stream=httpx.ByteStream(b"picture"))

    async with client(respond) as http:
        [path] = await inputs.fetch_images(http, [IMAGE], tmp_path / "inputs")
    assert path.read_bytes() == b"picture"


@pytest.mark.parametrize(("trouble", "tries"), [(404, 1), (403, 1), (500, 3), (httpx.ConnectError("x"), 3)])
async def test_a_picture_that_cannot_be_fetched_is_not_the_users_fault(
    tmp_path: Path, trouble: Any, tries: int
) -> None:
    respond, seen = answers(trouble)
    async with client(respond) as http:
        with pytest.raises(InputUnavailable) as caught:
            await inputs.fetch_images(http, [IMAGE], tmp_path / "inputs")
    assert len(seen) == tries
    assert "signature" not in caught.value.detail


async def test_a_picture_larger_than_the_bound_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "MAX_IMAGE_BYTES", 3)
    respond, _ = answers(200)
    async with client(respond) as http:
        with pytest.raises(InvalidInput):
            await inputs.fetch_images(http, [IMAGE], tmp_path / "inputs")


async def test_only_the_newest_progress_is_posted_and_not_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.3)
    respond, seen = answers(200)
    async with client(respond) as http, progress_posts(http, "http://ingress/progress", "job-1") as report:
        report(Progress(percent=0, stage="rendering"))
        await until(lambda: len(seen) == 1)
        began = time.monotonic()
        for percent in range(1, 50):
            report(Progress(percent=percent, stage="rendering"))
        await until(lambda: len(seen) == 2)
    assert time.monotonic() - began > 0.2
    assert seen[-1].content == b'{"percent":49,"stage":"rendering","step":null,"steps":null,"job_id":"job-1"}'


async def test_progress_survives_a_broken_ingress_and_leaves_one_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.0)
    respond, seen = answers(httpx.ConnectError("x"), 500, 410)

    def have_come(count: int) -> bool:
        return len(seen) == count

    async with client(respond) as http, progress_posts(http, "http://ingress/progress", "job-1") as report:
        for number in range(3):
            report(Progress(percent=number, stage="rendering"))
            await until(partial(have_come, number + 1))
        report(Progress(percent=3, stage="rendering"))
    assert len(seen) == 3


async def test_without_an_address_progress_goes_nowhere() -> None:
    respond, seen = answers(200)
    async with client(respond) as http, progress_posts(http, None, "job-1") as report:
        report(Progress(percent=1, stage="rendering"))
    assert seen == []
