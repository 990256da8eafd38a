"""Files that stock workers return: they reach the bucket once, whatever happens to the processes that transfer them."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import httpx
import pytest

from generation.repository.fair_queue import ClaimedOrder
from local_platform.servers import S3Server
from service_runtime.presigned_urls import PresignedUrls
from tests.generation.harness import GenerationHarness, order
from tests.generation.ingress import IngressHarness
from tests.support.waiting import eventually

PICTURE = b"\x89PNG" + bytes(1000)


class Bucket(httpx.AsyncHTTPTransport):
    """The way to the bucket. It can be closed or broken, and records what passes."""

    def __init__(self, *, is_open: bool = True) -> None:
        super().__init__()
        self.open = asyncio.Event()
        if is_open:
            self.open.set()
        self.error: Exception | None = None
        self.paths: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.path)
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return await super().handle_async_request(request)


StartProcess = Callable[[Bucket], IngressHarness]


@pytest.fixture
async def start(harness: GenerationHarness, s3_server: S3Server) -> AsyncIterator[StartProcess]:
    """Start what transfers files in one process, each with a bucket of its own to reach."""
    async with AsyncExitStack() as stack:

        def make(bucket: Bucket) -> IngressHarness:
            made = IngressHarness(harness, s3_server, transport=bucket)
            stack.push_async_callback(made.close)
            return made

        yield make


def images(data: str, kind: str = "base64") -> dict[str, Any]:
    return {"images": [{"filename": "a.png", "type": kind, "data": data}]}


async def claim_pictures(harness: GenerationHarness, count: int) -> list[ClaimedOrder]:
    await harness.enqueue(*(order("flux-schnell") for _ in range(count)))
    return await harness.claim(endpoint="image")


async def return_pictures(ingress: IngressHarness, count: int) -> list[ClaimedOrder]:
    """Jobs that a stock worker answers with a picture each, one after the other."""
    claimed = await claim_pictures(ingress.harness, count)
    data = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    for one in claimed:
        await ingress.report(one.attempt_id, "COMPLETED", output=images(data))
    return claimed


async def until_stored(harness: GenerationHarness, claimed: list[ClaimedOrder]) -> None:
    async def all_stored() -> bool:
        return [await harness.status(one.generation_id) for one in claimed] == ["storing"] * len(claimed)

    await eventually(all_stored)


async def make_due(harness: GenerationHarness) -> None:
    await harness.execute("UPDATE generation.provider_callbacks SET due_at = now() WHERE processed_at IS NULL")


async def end_leases(harness: GenerationHarness) -> None:
    await harness.execute("UPDATE generation.provider_callbacks SET leased_until = now() - interval '1 second'")


async def test_a_picture_that_a_stock_worker_returns_is_put_where_ours_would_be(
    start: StartProcess, harness: GenerationHarness, s3_server: S3Server
) -> None:
    ingress = start(Bucket())
    picture = b"\x89PNG" + bytes(range(256)) * 2000
    [claimed] = await claim_pictures(harness, 1)
    data = "data:image/png;base64," + base64.b64encode(picture).decode()
    await ingress.report(claimed.attempt_id, "COMPLETED", output=images(data))
    await until_stored(harness, [claimed])
    [attempt] = await harness.attempts(claimed.generation_id)
    assert (attempt.size_bytes, attempt.sha256) == (len(picture), hashlib.sha256(picture).hexdigest())
    access_key, secret_key = s3_server.credentials["storage"]
    reader = PresignedUrls(s3_server.endpoint_url, s3_server.region, access_key, secret_key)
    url = reader.get("incoming", f"{claimed.generation_id}/1/output.png", timedelta(minutes=1))
    assert (await ingress.bucket_http.get(url)).content == picture


async def test_a_file_that_one_process_has_no_room_for_is_transferred_by_another(
    start: StartProcess, harness: GenerationHarness
) -> None:
    closed, free = Bucket(is_open=False), Bucket()
    busy, other = start(closed), start(free)
    claimed = await return_pictures(busy, 3)
    await eventually(lambda: len(closed.paths) == 2)
    await other.transfers.fill()
    await eventually(lambda: len(free.paths) == 1)
    closed.open.set()
    await until_stored(harness, claimed)
    expected = sorted(f"/incoming/{one.generation_id}/1/output.png" for one in claimed)
    assert sorted(closed.paths + free.paths) == expected, "each file is transferred once"


async def test_a_returned_file_whose_lease_ended_is_left_to_the_next_process(
    start: StartProcess, harness: GenerationHarness
) -> None:
    closed, free = Bucket(is_open=False), Bucket()
    slow, other = start(closed), start(free)
    [claimed] = await return_pictures(slow, 1)
    await eventually(lambda: closed.paths)
    await end_leases(harness)
    await other.transfers.fill()
    await until_stored(harness, [claimed])
    before = tuple(await harness.row(claimed.generation_id))
    closed.open.set()
    await slow.transfers.idle()
    assert tuple(await harness.row(claimed.generation_id)) == before, "the slow process changed nothing"
    assert (await harness.announced(claimed.generation_id)).count("output-ready") == 1


async def test_a_process_without_its_lease_does_not_give_up_a_file_of_another_process(
    start: StartProcess, harness: GenerationHarness
) -> None:
    defective, closed = Bucket(is_open=False), Bucket(is_open=False)
    defective.error = RuntimeError("an unexpected error")
    loser, other = start(defective), start(closed)
    [claimed] = await return_pictures(loser, 1)
    await loser.transfers.drain()
    await harness.execute("UPDATE generation.provider_callbacks SET tries = 7")
    defective.paths.clear()
    await loser.transfers.fill()
    await eventually(lambda: defective.paths)
    await end_leases(harness)
    await other.transfers.fill()
    await eventually(lambda: closed.paths)
    defective.open.set()
    await loser.transfers.idle()
    closed.open.set()
    await until_stored(harness, [claimed])


async def test_a_process_that_stops_gives_its_transfers_back_at_once(
    start: StartProcess, harness: GenerationHarness
) -> None:
    closed, free = Bucket(is_open=False), Bucket()
    stopping, other = start(closed), start(free)
    claimed = await return_pictures(stopping, 1)
    await eventually(lambda: closed.paths)
    await stopping.transfers.drain()
    await other.transfers.fill()
    await until_stored(harness, claimed)


async def test_a_returned_file_is_stored_soon_after_the_bucket_is_back(
    start: StartProcess, harness: GenerationHarness
) -> None:
    bucket = Bucket()
    bucket.error = httpx.ConnectError("broken on purpose")
    ingress = start(bucket)
    claimed = await return_pictures(ingress, 1)
    await ingress.transfers.idle()
    [row] = await harness.query(
        "SELECT due_at - now() AS pause, leased_until FROM generation.provider_callbacks WHERE processed_at IS NULL"
    )
    assert timedelta(0) < row.pause < timedelta(seconds=10)
    assert row.leased_until is None
    bucket.error = None
    await make_due(harness)
    await ingress.transfers.fill()
    await until_stored(harness, claimed)


async def test_a_file_waits_for_its_bucket_and_uses_up_no_try(start: StartProcess, harness: GenerationHarness) -> None:
    bucket = Bucket()
    bucket.error = httpx.ConnectError("broken on purpose")
    ingress = start(bucket)
    [claimed] = await return_pictures(ingress, 1)
    await ingress.transfers.idle()
    for _ in range(10):
        await make_due(harness)
        await ingress.transfers.fill()
        await ingress.transfers.idle()
    [row] = await harness.query(
        "SELECT due_at - now() AS pause FROM generation.provider_callbacks WHERE processed_at IS NULL"
    )
    assert row.pause < timedelta(seconds=6), "it goes on seconds after the bucket's return"
    assert await harness.status(claimed.generation_id) != "failed"
    bucket.error = None
    await make_due(harness)
    await ingress.transfers.fill()
    await until_stored(harness, [claimed])


async def test_a_bucket_that_stays_away_has_the_file_looked_up_in_the_end(
    start: StartProcess, harness: GenerationHarness
) -> None:
    bucket = Bucket()
    bucket.error = httpx.ConnectError("broken on purpose")
    ingress = start(bucket)
    [claimed] = await return_pictures(ingress, 1)
    await ingress.transfers.idle()
    await harness.execute(
        "UPDATE generation.provider_callbacks SET received_at = received_at - interval '25 hours', due_at = now()"
    )
    await ingress.transfers.fill()
    await ingress.transfers.idle()
    assert (await harness.row(claimed.generation_id)).sought_code == "output_missing"


async def test_a_file_that_the_bucket_refuses_is_looked_up_after_some_tries(
    start: StartProcess, harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingress = start(Bucket())
    monkeypatch.setattr(ingress.files, "_bucket", "no-such-bucket")
    [claimed] = await return_pictures(ingress, 1)
    await ingress.transfers.idle()
    await harness.execute("UPDATE generation.provider_callbacks SET tries = 7, due_at = now()")
    await ingress.transfers.fill()
    await ingress.transfers.idle()
    assert (await harness.row(claimed.generation_id)).sought_code == "output_missing"


async def test_files_whose_transfer_never_ends_delay_no_other(
    start: StartProcess, harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("generation.returned_files.LONGEST_SECONDS", 0.5)
    bucket = Bucket(is_open=False)
    ingress = start(bucket)
    await return_pictures(ingress, 3)
    await eventually(lambda: len(bucket.paths) == 2)
    running = asyncio.create_task(ingress.transfers.run())
    try:
        await eventually(lambda: len(bucket.paths) == 3, what="the third file is transferred")

        async def due_again() -> bool:
            due = "SELECT 1 FROM generation.provider_callbacks WHERE due_at - now() < interval '1 minute'"
            return len(await harness.query(f"{due} AND leased_until IS NULL")) == 3

        await eventually(due_again, what="each is tried again soon")
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_returned_file_that_always_fails_is_given_up(
    start: StartProcess, harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def fail(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise RuntimeError("a bug")

    ingress = start(Bucket())
    monkeypatch.setattr(ingress.files, "store", fail)
    await return_pictures(ingress, 1)

    async def given_up() -> bool:
        await make_due(harness)
        await ingress.transfers.fill()
        [row] = await harness.query("SELECT outcome FROM generation.provider_callbacks")
        return bool(row.outcome == "given_up")

    await eventually(given_up)
    assert tries < 20


@pytest.mark.parametrize(
    "url",
    [
        *("https://127.0.0.1/a.png", "http://example.com/a.png", "https://localhost/a.png"),
        *("https://[::1/a.png", "https://a:99999/a.png", f"https://{'a' * 64}.example/a.png", "https://a\0b/a.png"),
    ],
)
async def test_an_address_inside_our_network_is_not_fetched(
    start: StartProcess, harness: GenerationHarness, url: str
) -> None:
    ingress = start(Bucket())
    [claimed] = await claim_pictures(harness, 1)
    await ingress.report(claimed.attempt_id, "COMPLETED", output=images(url, "s3_url"))
    await ingress.transfers.idle()
    assert [one.status for one in await harness.attempts(claimed.generation_id)] == ["lost"]
    assert (await harness.announced(claimed.generation_id))[-1] == "output-sought"


async def test_a_returned_file_larger_than_allowed_is_not_stored(
    start: StartProcess, harness: GenerationHarness
) -> None:
    ingress = start(Bucket())
    await harness.enqueue(order("flux-schnell"))
    await harness.execute("UPDATE generation.video_generations SET max_size_bytes = 10")
    [claimed] = await harness.claim(endpoint="image")
    await ingress.report(claimed.attempt_id, "COMPLETED", output=images(base64.b64encode(b"x" * 11).decode()))
    await ingress.transfers.idle()
    assert (await harness.row(claimed.generation_id)).sought_code == "output_rejected"


async def test_a_large_body_that_turns_out_to_be_unreadable_is_closed(
    start: StartProcess, harness: GenerationHarness
) -> None:
    ingress = start(Bucket())
    [claimed] = await claim_pictures(harness, 1)
    assert await ingress.post(claimed.attempt_id, b"\x00" * (256 * 1024 + 1)) == 200
    await ingress.processor.process()
    await ingress.transfers.fill()
    await ingress.transfers.idle()
    [row] = await harness.query("SELECT outcome, due_at FROM generation.provider_callbacks")
    assert (row.outcome, row.due_at) == ("unreadable", None)
