"""Failures of the object store: responses are lost, buckets are missing, and no file is rejected for it."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import web

from contracts.storage import AssetStored
from local_platform.servers import S3Server
from service_runtime.backoff import Backoff
from storage import s3_requests
from storage.decoders import Decoders
from storage.errors import Rejected, StoreUnavailable
from storage.object_store import ObjectStore
from storage.verification import Verifier
from tests.storage.integration.conftest import StorageHarness, output_ready, settings_for, worker_for
from tests.storage.integration.lossy_proxy import LossyProxy
from tests.support.media import clip, frames_of


@pytest.fixture
async def proxy(s3_server: S3Server) -> AsyncIterator[LossyProxy]:
    async with LossyProxy(s3_server.endpoint_url).running() as proxy:
        yield proxy


@pytest.fixture
async def store(s3_server: S3Server, proxy: LossyProxy) -> AsyncIterator[ObjectStore]:
    """The client of storage, which reaches the object store through the proxy."""
    store = ObjectStore(settings_for(s3_server, proxy.url))
    await store.open()
    yield store
    await store.close()


async def test_a_write_whose_response_was_lost_is_recognised_by_its_checksum(
    store: ObjectStore, proxy: LossyProxy
) -> None:
    body, key = b"x" * 100_000, f"{uuid4()}/output.mp4"
    sha256 = hashlib.sha256(body).hexdigest()
    proxy.losses = 1
    found = await store.put_once(key, body, sha256, "video/mp4", {"attempt-number": "1"})
    assert proxy.lost == 1
    assert found is not None
    assert (found.sha256, found.metadata["attempt-number"]) == (sha256, "1")


async def test_a_large_file_is_sent_again_whole_after_a_lost_response(
    store: ObjectStore, proxy: LossyProxy, tmp_path: Path
) -> None:
    """The second write goes over the connection of the first, so that the HTTP client repeats it by itself."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert await store.put_once(f"{uuid4()}/output.mp4", path, sha256, "video/mp4", {}) is None
    key = f"{uuid4()}/output.mp4"
    proxy.losses = 1
    found = await store.put_once(key, path, sha256, "video/mp4", {})
    assert proxy.lost == 1
    assert found is not None
    assert found.sha256 == sha256
    fetched = await store.fetch("library", key, tmp_path / "fetched", 3_000_000)
    assert fetched.sha256 == sha256


async def test_any_key_is_signed_as_the_store_reads_it(store: ObjectStore, tmp_path: Path) -> None:
    key, body = f"{uuid4()}/a b+c~d%2F=é'(1)*.mp4", b"any key"
    sha256 = hashlib.sha256(body).hexdigest()
    assert await store.put_once(key, body, sha256, "video/mp4", {"attempt-number": "1"}) is None
    assert (await store.fetch("library", key, tmp_path / "file", 100)).sha256 == sha256


@pytest.mark.parametrize(
    ("status", "code", "tries"),
    [(503, "SlowDown", 3), (500, "InternalError", 3), (400, "RequestTimeout", 3), (403, "AccessDenied", 1)],
)
async def test_a_refusal_is_repeated_where_that_may_help(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str, tries: int
) -> None:
    monkeypatch.setattr(s3_requests, "BACKOFF", Backoff(first=timedelta(milliseconds=1), longest=timedelta(seconds=1)))
    answers = iter([status] * tries + [200])
    seen = 0

    async def answer(_: web.BaseRequest) -> web.Response:
        nonlocal seen
        seen += 1
        given = next(answers)
        body = b"found" if given == 200 else f"<Error><Code>{code}</Code></Error>".encode()
        return web.Response(status=given, body=body)

    async with _serving(answer) as url:
        store = ObjectStore(settings_for(s3_server, url))
        await store.open()
        try:
            with pytest.raises(StoreUnavailable, match=f"GetObject: {status} {code}"):
                await store.fetch("incoming", "key", tmp_path / "file", 100)
            assert seen == tries
            assert (await store.fetch("incoming", "key", tmp_path / "file", 100)).size_bytes == 5
        finally:
            await store.close()


async def test_a_store_that_never_asks_for_the_file_is_unavailable(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_requests, "CONTINUE_SECONDS", 0.1)
    monkeypatch.setattr(s3_requests, "BACKOFF", Backoff(first=timedelta(milliseconds=1), longest=timedelta(seconds=1)))
    body, path = b"f" * (s3_requests.CHUNK_BYTES + 1), tmp_path / "file"
    path.write_bytes(body)
    over = asyncio.Event()

    async def answer(_: web.BaseRequest) -> web.Response:
        await over.wait()
        return web.Response()

    async with _serving(answer) as url:
        store = ObjectStore(settings_for(s3_server, url))
        await store.open()
        try:
            with pytest.raises(StoreUnavailable, match="TimeoutError"):
                await store.put_once("key", path, hashlib.sha256(body).hexdigest(), "video/mp4", {})
        finally:
            over.set()
            await store.close()


@contextlib.asynccontextmanager
async def _serving(answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def test_lost_responses_end_in_one_asset_and_one_message(
    storage: StorageHarness,
    store: ObjectStore,
    proxy: LossyProxy,
    decoders: Decoders,
    s3_server: S3Server,
    tmp_path: Path,
) -> None:
    verifier = Verifier(store, decoders, tmp_path, settings_for(s3_server))
    storage.worker = worker_for(storage.transactions, verifier)
    body = clip()
    generation_id, reported = storage.upload_output(body)
    proxy.losses = 1000
    await storage.verify(output_ready(generation_id, reported))
    assert await storage.published() == []
    proxy.losses = 0
    await storage.make_due()
    await storage.process_all()
    stored = await storage.only(AssetStored)
    delivered = storage.library(stored.object_key)
    assert (stored.size_bytes, stored.sha256) == (len(delivered), hashlib.sha256(delivered).hexdigest())
    assert frames_of(delivered) == frames_of(body)
    assert len(await storage.assets()) == 1


async def test_a_missing_bucket_rejects_no_file(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await store.fetch("no-such-bucket", "key", tmp_path / "file", 100)
    with pytest.raises(Rejected):
        await store.fetch("incoming", f"{uuid4()}/1/output.mp4", tmp_path / "file", 100)


async def test_an_unreachable_store_is_unavailable(s3_server: S3Server, tmp_path: Path) -> None:
    store = ObjectStore(settings_for(s3_server, "http://127.0.0.1:1"))
    await store.open()
    try:
        with pytest.raises(StoreUnavailable):
            await store.fetch("incoming", "key", tmp_path / "file", 100)
    finally:
        await store.close()


async def test_the_store_refuses_a_body_with_another_checksum(store: ObjectStore) -> None:
    with pytest.raises(StoreUnavailable, match="400"):
        await store.put_once(f"{uuid4()}/output.mp4", b"damaged on the way", "0" * 64, "video/mp4", {})


async def test_a_file_without_a_stated_length_is_fetched_within_its_bound(s3_server: S3Server, tmp_path: Path) -> None:
    """R2 decompresses an upload with gzip encoding and then states no length. Any user can upload one."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        pieces = (b"32\r\n" + b"x" * 50 + b"\r\n") * 2
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        store = ObjectStore(settings_for(s3_server, f"http://127.0.0.1:{port}"))
        await store.open()
        try:
            fetched = await store.fetch("uploads", "key", tmp_path / "file", 100)
            assert fetched.sha256 == hashlib.sha256(b"x" * 100).hexdigest()
            with pytest.raises(Rejected) as refusal:
                await store.fetch("uploads", "key", tmp_path / "file", 99)
            assert refusal.value.code == "size_mismatch"
        finally:
            await store.close()


async def test_requests_are_dated_by_the_clock_of_the_database(s3_server: S3Server, tmp_path: Path) -> None:
    """The host may be hours off, and the store refuses what is a quarter of an hour off."""
    seen: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request.headers["X-Amz-Date"])
        return web.Response(body=b"a file")

    async with _serving(answer) as url:
        store = ObjectStore(settings_for(s3_server, url), lambda: 1_000_000_000.0)
        await store.open()
        try:
            await store.fetch("incoming", "key", tmp_path / "file", 100)
        finally:
            await store.close()
    assert seen == ["20010909T014640Z"]


async def test_an_error_that_comes_in_pieces_is_read_whole(s3_server: S3Server, tmp_path: Path) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=404)
        await response.prepare(request)
        for piece in (b"<Error><Code>NoSuch", b"Key</Code></Error>"):
            await response.write(piece)
            await asyncio.sleep(0)
        return response

    async with _serving(answer) as url:
        store = ObjectStore(settings_for(s3_server, url))
        await store.open()
        try:
            with pytest.raises(Rejected, match="not_found"):
                await store.fetch("incoming", "key", tmp_path / "file", 100)
        finally:
            await store.close()


async def test_a_folder_is_removed_and_nothing_beside_it(s3_server: S3Server, store: ObjectStore) -> None:
    user, admin = uuid4(), s3_server.client("admin")
    folder, names = f"{user}/a folder+é/", ("output.mp4", "poster 1+2%.jpg", "poster-&<>.jpg", "thumbnail-é.webp", "z")
    beside = [f"{user}/a folder+é", f"{user}/another/output.mp4"]
    for key in (*(folder + name for name in names), *beside):
        admin.put_object(Bucket="library", Key=key, Body=b"a file")
    assert await store.delete_folder(folder) == len(names)
    listed = admin.list_objects_v2(Bucket="library", Prefix=str(user))
    assert {one["Key"] for one in listed["Contents"]} == set(beside)
    assert await store.delete_folder(folder) == 0


async def test_a_listing_that_is_no_listing_removes_nothing(s3_server: S3Server) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(body=b"a page of a proxy")

    async with _serving(answer) as url:
        store = ObjectStore(settings_for(s3_server, url))
        await store.open()
        try:
            with pytest.raises(StoreUnavailable):
                await store.delete_folder("user/generation/")
        finally:
            await store.close()
