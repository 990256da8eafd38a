"""The webhook ingress and how its bodies are processed: forged, repeated, reordered, late, huge."""

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from contracts.live import PROGRESS_SUBJECT, GenerationProgress
from contracts.storage import AssetStored
from contracts.values import MediaProperties
from generation.callback_urls import CallbackUrls
from generation.http import build_app
from generation.loops.callbacks import CallbackProcessor
from generation.progress import MAX_PREVIEW_BYTES, ProgressReports
from generation.public_addresses import PublicFetcher
from generation.repository.fair_queue import ClaimedOrder
from generation.returned_files import ReturnedFiles
from local_platform.servers import S3Server
from messaging.broker import Broker
from messaging.live import subscribe_live
from service_runtime.presigned_urls import PresignedUrls
from tests.generation.harness import GenerationHarness, order
from tests.generation.integration.test_handlers import timers
from tests.support.waiting import eventually

OUTPUT = {"outputs": [{"object_key": "x", "size_bytes": 10, "sha256": "ab", "content_type": "video/mp4"}]}


class IngressHarness:
    """Drives the public listener and the processor behind it."""

    def __init__(
        self,
        harness: GenerationHarness,
        s3: S3Server,
        broker: Broker,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.harness = harness
        self.urls = CallbackUrls("http://ingress", ["new secret", "old secret"])
        progress = ProgressReports(harness.transactions, broker, harness.policy, harness.wake_ups)
        app = build_app(harness.transactions, self.urls, progress, harness.wake_ups)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app))  # type: ignore[arg-type]
        access_key, secret_key = s3.credentials["generation"]
        self.transfer = httpx.AsyncClient(transport=transport)
        files = ReturnedFiles(
            self.transfer,
            PublicFetcher(httpx.AsyncClient(trust_env=False)),
            PresignedUrls(s3.endpoint_url, s3.region, access_key, secret_key),
            "incoming",
        )
        self.processor = CallbackProcessor(harness.transactions, files, harness.policy, harness.wake_ups)

    def url(self, attempt_id: UUID) -> str:
        return self.urls.url(attempt_id, int(time.time()) + 60)

    async def post(self, attempt_id: UUID, body: bytes | dict[str, Any]) -> int:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return (await self.http.post(self.url(attempt_id), content=content)).status_code

    async def close(self) -> None:
        await self.processor.drain()
        await self.transfer.aclose()
        await self.http.aclose()

    async def report(self, attempt_id: UUID, status: str, **more: Any) -> None:
        assert await self.post(attempt_id, {"id": "job-1", "status": status, **more}) == 200
        await self.processor.process()


@pytest.fixture
async def ingress(harness: GenerationHarness, s3_server: S3Server) -> AsyncIterator[IngressHarness]:
    made = IngressHarness(harness, s3_server, Broker("nats://127.0.0.1:1", "generation", "", "never connected"))
    yield made
    await made.close()


@pytest.fixture
async def claimed(harness: GenerationHarness) -> ClaimedOrder:
    await harness.enqueue(order())
    [one] = await harness.claim()
    return one


def media() -> MediaProperties:
    return MediaProperties(content_type="video/mp4", width_pixels=832, height_pixels=480, codec="h264")


def stored(claimed: ClaimedOrder) -> AssetStored:
    return AssetStored(
        asset_id=uuid4(),
        generation_id=claimed.generation_id,
        user_id=claimed.user_id,
        attempt_id=claimed.attempt_id,
        attempt_number=claimed.attempt_number,
        object_key="k",
        poster_object_key="p",
        size_bytes=10,
        sha256="ab",
        media=media(),
        stored_at=order().requested_at,
    )


async def bodies(harness: GenerationHarness) -> int:
    return len(await harness.query("SELECT callback_id FROM generation.provider_callbacks"))


@pytest.mark.parametrize("forge", ["other attempt", "garbage", "expired"])
async def test_a_forged_or_stale_callback_is_refused_and_leaves_nothing(
    ingress: IngressHarness, claimed: ClaimedOrder, forge: str
) -> None:
    good = ingress.url(claimed.attempt_id)
    url = {
        "other attempt": good.replace(str(claimed.attempt_id), str(uuid4())),
        "garbage": good.rsplit("/", 1)[0] + "/2000000000.00ff",
        "expired": ingress.urls.url(claimed.attempt_id, int(time.time()) - 1),
    }[forge]
    answer = await ingress.http.post(url, content=b'{"status": "COMPLETED"}')
    assert answer.status_code == (410 if forge == "expired" else 403)
    assert answer.json()["code"] in ("invalid_callback_signature", "callback_expired")
    assert await bodies(ingress.harness) == 0


async def test_a_body_larger_than_any_result_is_refused(ingress: IngressHarness, claimed: ClaimedOrder) -> None:
    assert await ingress.post(claimed.attempt_id, b"x" * (20 * 1024 * 1024 + 1)) == 413
    assert await bodies(ingress.harness) == 0


async def test_an_address_signed_with_the_older_secret_still_works(
    ingress: IngressHarness, claimed: ClaimedOrder
) -> None:
    url = CallbackUrls("http://ingress", ["old secret"]).url(claimed.attempt_id, int(time.time()) + 60)
    assert (await ingress.http.post(url, content=b"{}")).status_code == 200


async def test_an_attempt_cannot_fill_the_table(ingress: IngressHarness, claimed: ClaimedOrder) -> None:
    answers = [await ingress.post(claimed.attempt_id, {"status": "FAILED", "n": number}) for number in range(40)]
    assert answers == [200] * 32 + [429] * 8


async def test_a_completed_job_is_verified_and_then_completed(ingress: IngressHarness, claimed: ClaimedOrder) -> None:
    harness = ingress.harness
    await ingress.report(claimed.attempt_id, "COMPLETED", output=OUTPUT, executionTime=1500)
    assert await harness.status(claimed.generation_id) == "storing"
    assert await harness.counters() == (0, 0)
    await harness.deliver(harness.handlers.asset_stored, stored(claimed))
    row = await harness.row(claimed.generation_id)
    assert (row.status, row.late) == ("completed", False)
    assert (await harness.announced(claimed.generation_id))[-2:] == ["output-ready", "generation-completed"]


async def test_ten_copies_of_a_callback_at_once_have_one_effect(ingress: IngressHarness, claimed: ClaimedOrder) -> None:
    body = {"id": "job-1", "status": "COMPLETED", "output": OUTPUT}
    answers = await asyncio.gather(*(ingress.post(claimed.attempt_id, body) for _ in range(10)))
    assert answers == [200] * 10
    await asyncio.gather(*(ingress.processor.process() for _ in range(3)))
    assert (await ingress.harness.announced(claimed.generation_id)).count("output-ready") == 1


async def test_callbacks_in_reverse_order_end_in_the_same_state(ingress: IngressHarness, claimed: ClaimedOrder) -> None:
    await ingress.report(claimed.attempt_id, "COMPLETED", output=OUTPUT)
    await ingress.report(claimed.attempt_id, "IN_PROGRESS")
    await ingress.report(claimed.attempt_id, "IN_QUEUE")
    assert await ingress.harness.status(claimed.generation_id) == "storing"


async def test_garbage_with_a_valid_signature_is_stored_and_changes_nothing(
    ingress: IngressHarness, claimed: ClaimedOrder
) -> None:
    assert await ingress.post(claimed.attempt_id, b"\x00not json") == 200
    await ingress.processor.process()
    [row] = await ingress.harness.query("SELECT outcome, processed_at FROM generation.provider_callbacks")
    assert row.outcome == "unreadable"
    assert await ingress.harness.status(claimed.generation_id) == "dispatching"


async def test_a_callback_for_an_attempt_that_was_never_made_changes_nothing(ingress: IngressHarness) -> None:
    await ingress.report(uuid4(), "COMPLETED", output=OUTPUT)
    [row] = await ingress.harness.query("SELECT outcome FROM generation.provider_callbacks")
    assert row.outcome == "unknown_attempt"


async def test_a_failure_with_text_that_the_database_refuses_still_fails_the_attempt(
    ingress: IngressHarness, claimed: ClaimedOrder
) -> None:
    await ingress.report(claimed.attempt_id, "FAILED", error="out of \0 memory")
    [attempt] = await ingress.harness.attempts(claimed.generation_id)
    assert (attempt.status, attempt.failure_code) == ("failed", "execution_failed")


async def test_a_users_error_fails_the_order_without_another_attempt(
    ingress: IngressHarness, claimed: ClaimedOrder
) -> None:
    error = json.dumps({"code": "unsupported", "detail": "the picture is empty", "user_fault": True})
    await ingress.report(claimed.attempt_id, "FAILED", error=error)
    row = await ingress.harness.row(claimed.generation_id)
    assert (row.status, row.failure_code, row.failure_detail) == ("failed", "invalid_input", "the picture is empty")


async def test_a_result_after_a_cancel_is_delivered_free(ingress: IngressHarness, claimed: ClaimedOrder) -> None:
    harness = ingress.harness
    await harness.execute(
        "UPDATE generation.video_generations SET status = 'cancelled', finished_at = now() WHERE generation_id = :id",
        id=claimed.generation_id,
    )
    await harness.execute("UPDATE generation.attempts SET status = 'cancelled', ended_at = now()")
    await ingress.report(claimed.attempt_id, "COMPLETED", output=OUTPUT)
    await harness.deliver(harness.handlers.asset_stored, stored(claimed))
    row = await harness.row(claimed.generation_id)
    assert (row.status, row.late) == ("completed", True)
    [message] = await harness.query(
        "SELECT payload FROM generation.outbox_messages WHERE subject LIKE '%generation-completed%'"
    )
    completed = json.loads(message.payload)
    assert (completed["capture_credits"], completed["late"]) == (0, True)


async def test_a_picture_that_a_stock_worker_returns_is_put_where_ours_would_be(
    ingress: IngressHarness, s3_server: S3Server
) -> None:
    harness = ingress.harness
    await harness.enqueue(order("flux-schnell"))
    [claimed] = await harness.claim(endpoint="image")
    picture = b"\x89PNG" + bytes(range(256)) * 2000
    data = "data:image/png;base64," + base64.b64encode(picture).decode()
    await ingress.report(
        claimed.attempt_id, "COMPLETED", output={"images": [{"filename": "a.png", "type": "base64", "data": data}]}
    )

    async def storing() -> bool:
        return await harness.status(claimed.generation_id) == "storing"

    await eventually(storing)
    [attempt] = await harness.attempts(claimed.generation_id)
    assert (attempt.size_bytes, attempt.sha256) == (len(picture), hashlib.sha256(picture).hexdigest())
    access_key, secret_key = s3_server.credentials["storage"]
    reader = PresignedUrls(s3_server.endpoint_url, s3_server.region, access_key, secret_key)
    url = reader.get("incoming", f"{claimed.generation_id}/1/output.png", timedelta(minutes=1))
    assert (await ingress.transfer.get(url)).content == picture


class Bucket(httpx.AsyncHTTPTransport):
    """The way to the bucket, which can be held up or broken, and counts what passes."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.broken = self.defective = False
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        await self.open.wait()
        if self.defective:
            raise RuntimeError("an unexpected error")
        if self.broken:
            raise httpx.ConnectError("broken on purpose")
        return await super().handle_async_request(request)


async def returned(ingress: IngressHarness, orders: int) -> list[ClaimedOrder]:
    """Jobs that a stock worker answers with a picture each, one after the other."""
    await ingress.harness.enqueue(*(order("flux-schnell") for _ in range(orders)))
    claimed = await ingress.harness.claim(endpoint="image")
    data = "data:image/png;base64," + base64.b64encode(b"\x89PNG" + bytes(1000)).decode()
    images = [{"filename": "a.png", "type": "base64", "data": data}]
    for one in claimed:
        await ingress.report(one.attempt_id, "COMPLETED", output={"images": images})
    return claimed


async def test_a_returned_file_whose_lease_ended_is_left_to_the_next_process(
    harness: GenerationHarness, s3_server: S3Server
) -> None:
    broker = Broker("nats://127.0.0.1:1", "generation", "", "never connected")
    held, free = Bucket(), Bucket()
    free.open.set()
    slow, other = IngressHarness(harness, s3_server, broker, held), IngressHarness(harness, s3_server, broker, free)
    try:
        claimed = await returned(slow, 3)
        await eventually(lambda: len(held.asked) == 2)
        uploading = [path.split("/")[2] for path in held.asked]
        [waiting] = [one for one in claimed if str(one.generation_id) not in uploading]
        await harness.execute(
            "UPDATE generation.provider_callbacks SET due_at = now() WHERE attempt_id = :id", id=waiting.attempt_id
        )
        await other.processor.process()
        await eventually(lambda: len(free.asked) == 1)
        held.open.set()

        async def all_stored() -> bool:
            return [await harness.status(one.generation_id) for one in claimed] == ["storing"] * 3

        await eventually(all_stored)
        assert sorted(held.asked + free.asked) == sorted(
            f"/incoming/{one.generation_id}/1/output.png" for one in claimed
        )
    finally:
        await slow.close()
        await other.close()


async def test_a_process_without_its_lease_does_not_give_up_a_file_of_another_process(
    harness: GenerationHarness, s3_server: S3Server
) -> None:
    broker = Broker("nats://127.0.0.1:1", "generation", "", "never connected")
    defective, held = Bucket(), Bucket()
    defective.defective = True
    loser, other = IngressHarness(harness, s3_server, broker, defective), IngressHarness(harness, s3_server, broker, held)
    try:
        [claimed] = await returned(loser, 1)
        await loser.processor.drain()
        await harness.execute("UPDATE generation.provider_callbacks SET due_at = now(), tries = 7")
        defective.asked.clear()
        await loser.processor.process()
        await eventually(lambda: defective.asked)
        await harness.execute("UPDATE generation.provider_callbacks SET due_at = now()")
        await other.processor.process()
        await eventually(lambda: held.asked)
        defective.open.set()
        await eventually(lambda: not loser.processor._storing)
        held.open.set()

        async def stored() -> bool:
            return await harness.status(claimed.generation_id) == "storing"

        await eventually(stored)
    finally:
        await loser.close()
        await other.close()


async def test_a_returned_file_is_stored_soon_after_the_bucket_is_back(
    harness: GenerationHarness, s3_server: S3Server
) -> None:
    bucket = Bucket()
    bucket.broken = True
    bucket.open.set()
    ingress = IngressHarness(
        harness, s3_server, Broker("nats://127.0.0.1:1", "generation", "", "never connected"), bucket
    )
    try:
        [claimed] = await returned(ingress, 1)

        async def due_soon() -> bool:
            [row] = await harness.query("SELECT due_at - now() < interval '10 s' FROM generation.provider_callbacks")
            return bool(row[0])

        await eventually(due_soon)
        bucket.broken = False
        await harness.execute("UPDATE generation.provider_callbacks SET due_at = now()")
        await ingress.processor.process()

        async def stored() -> bool:
            return await harness.status(claimed.generation_id) == "storing"

        await eventually(stored)
    finally:
        await ingress.close()


async def test_files_whose_transfer_never_ends_delay_no_other(
    harness: GenerationHarness, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("generation.returned_files._LONGEST_SECONDS", 0.5)
    bucket = Bucket()
    ingress = IngressHarness(
        harness, s3_server, Broker("nats://127.0.0.1:1", "generation", "", "never connected"), bucket
    )
    try:
        await returned(ingress, 3)
        await eventually(lambda: len(bucket.asked) == 2)
        await eventually(lambda: len(bucket.asked) == 3, what="the third file is transferred")

        async def due_again() -> bool:
            due = "SELECT 1 FROM generation.provider_callbacks WHERE due_at - now() < interval '1 minute'"
            return len(await harness.query(due)) == 3

        await eventually(due_again, what="each is tried again soon")
    finally:
        await ingress.close()


async def test_a_returned_file_that_always_fails_is_given_up(
    ingress: IngressHarness, harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def fail(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise RuntimeError("a bug")

    monkeypatch.setattr(ingress.processor._files, "store", fail)
    await returned(ingress, 1)

    async def given_up() -> bool:
        await harness.execute("UPDATE generation.provider_callbacks SET due_at = now() WHERE processed_at IS NULL")
        await ingress.processor.process()
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
async def test_an_address_inside_our_network_is_not_fetched(ingress: IngressHarness, url: str) -> None:
    harness = ingress.harness
    await harness.enqueue(order("flux-schnell"))
    [claimed] = await harness.claim(endpoint="image")
    await ingress.report(
        claimed.attempt_id, "COMPLETED", output={"images": [{"filename": "a.png", "type": "s3_url", "data": url}]}
    )

    async def lost() -> bool:
        return [one.status for one in await harness.attempts(claimed.generation_id)] == ["lost"]

    await eventually(lost)
    assert (await harness.announced(claimed.generation_id))[-1] == "output-sought"


async def test_a_returned_file_larger_than_allowed_is_not_stored(
    ingress: IngressHarness, harness: GenerationHarness
) -> None:
    await harness.enqueue(order("flux-schnell"))
    await harness.execute("UPDATE generation.video_generations SET max_size_bytes = 10")
    [claimed] = await harness.claim(endpoint="image")
    data = base64.b64encode(b"x" * 11).decode()
    await ingress.report(
        claimed.attempt_id, "COMPLETED", output={"images": [{"filename": "a.png", "type": "base64", "data": data}]}
    )

    async def looked_up() -> bool:
        return bool((await harness.row(claimed.generation_id)).sought_code == "output_rejected")

    await eventually(looked_up)


async def test_progress_reaches_core_nats_at_most_once_a_second_and_starts_the_order(
    harness: GenerationHarness, s3_server: S3Server, broker_settings: Any
) -> None:
    broker = Broker.of(broker_settings("generation"), "generation")
    listener = Broker.of(broker_settings("gateway"), "gateway")
    one = order()
    await harness.enqueue(one)
    [claimed] = await harness.claim()
    await harness.execute("UPDATE generation.attempts SET status = 'submitted', provider_job_id = 'job-1'")
    received: list[GenerationProgress] = []

    async def hear(_: str, progress: GenerationProgress) -> None:
        received.append(progress)

    async with broker.open(), listener.open():
        ingress = IngressHarness(harness, s3_server, broker)
        subscription = await subscribe_live(listener, PROGRESS_SUBJECT, GenerationProgress, hear)
        await listener.client.flush()
        url = f"{ingress.url(claimed.attempt_id)}/progress"
        for percent in range(5):
            answer = await ingress.http.post(url, json={"percent": percent, "step": 1, "stage": "rendering"})
            assert answer.status_code == 204
        bad = await ingress.http.post(url, json={"percent": 101})
        assert bad.status_code == 400
        await eventually(lambda: received)
        await broker.client.flush()
        await subscription.unsubscribe()
        await ingress.http.aclose()
        await ingress.transfer.aclose()
    assert [(one.generation_id, one.percent, one.attempt_number) for one in received] == [(claimed.generation_id, 0, 1)]
    assert await harness.status(one.generation_id) == "running"
    assert (await harness.announced(one.generation_id)).count("generation-started") == 1


async def test_preview_and_node_travel_with_the_progress(
    harness: GenerationHarness, s3_server: S3Server, broker_settings: Any
) -> None:
    broker = Broker.of(broker_settings("generation"), "generation")
    listener = Broker.of(broker_settings("gateway"), "gateway")
    await harness.enqueue(order())
    [claimed] = await harness.claim()
    heard: list[GenerationProgress] = []

    async def hear(_: str, progress: GenerationProgress) -> None:
        heard.append(progress)

    async with broker.open(), listener.open():
        ingress = IngressHarness(harness, s3_server, broker)
        subscription = await subscribe_live(listener, PROGRESS_SUBJECT, GenerationProgress, hear)
        await listener.client.flush()
        url = f"{ingress.url(claimed.attempt_id)}/progress"
        largest = b"\xff\xd8\xff".ljust(MAX_PREVIEW_BYTES, b"x")
        for preview in (b"<svg onload=alert(1)>", largest + b"x"):
            refused = await ingress.http.post(url, json={"percent": 1, "preview": base64.b64encode(preview).decode()})
            assert refused.status_code == 400
        report = {"percent": 7, "node": "High noise steps", "preview": base64.b64encode(largest).decode()}
        assert (await ingress.http.post(url, json=report)).status_code == 204
        await eventually(lambda: heard)
        await subscription.unsubscribe()
        await ingress.http.aclose()
        await ingress.transfer.aclose()
    assert [(one.percent, one.node, one.preview) for one in heard] == [(7, "High noise steps", largest)]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"percent": 1, "job_id": "\\u0000"}', b'{"percent": 1, "job_id": "\xff"}', b"[" * 4000]
)
async def test_progress_that_cannot_be_read_is_refused_and_changes_nothing(
    ingress: IngressHarness, claimed: ClaimedOrder, body: bytes
) -> None:
    answer = await ingress.http.post(f"{ingress.url(claimed.attempt_id)}/progress", content=body)
    assert answer.status_code == 400
    assert await ingress.harness.status(claimed.generation_id) == "dispatching"


async def test_old_bodies_are_removed_once_they_are_processed(ingress: IngressHarness, claimed: ClaimedOrder) -> None:
    await ingress.report(claimed.attempt_id, "IN_QUEUE")
    assert await ingress.post(claimed.attempt_id, {"id": "job-1", "status": "IN_PROGRESS"}) == 200
    await ingress.harness.execute(
        "UPDATE generation.provider_callbacks SET processed_at = now() - interval '1 day' WHERE outcome <> ''"
    )
    await timers(ingress.harness).purge()
    assert await bodies(ingress.harness) == 1
