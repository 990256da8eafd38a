"""The webhook ingress and how its bodies are processed: forged, repeated, reordered, late, huge."""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from contracts.live import PROGRESS_SUBJECT, GenerationProgress
from generation import callback_intake
from generation.callback_intake import CallbackIntake
from generation.callback_urls import CallbackUrls
from generation.http import LARGE_BODIES_AT_ONCE
from generation.progress import MAX_PREVIEW_BYTES
from generation.repository.callbacks import ROOM, add_callback
from generation.repository.fair_queue import ClaimedOrder
from local_platform.servers import S3Server
from messaging.broker import Broker
from messaging.live import subscribe_live
from service_runtime.database import LOCK_TIMEOUT_MS
from tests.generation.harness import GenerationHarness, order, stored
from tests.generation.ingress import IngressHarness
from tests.generation.integration.test_handlers import timers
from tests.support.waiting import eventually

OUTPUT = {"outputs": [{"object_key": "x", "size_bytes": 10, "sha256": "ab", "content_type": "video/mp4"}]}


@pytest.fixture
async def ingress(harness: GenerationHarness, s3_server: S3Server) -> AsyncIterator[IngressHarness]:
    made = IngressHarness(harness, s3_server)
    yield made
    await made.close()


@pytest.fixture
async def claimed(harness: GenerationHarness) -> ClaimedOrder:
    await harness.enqueue(order())
    [one] = await harness.claim()
    return one


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


async def test_bodies_of_an_attempt_have_bounded_bytes_also_all_at_once(
    ingress: IngressHarness, claimed: ClaimedOrder
) -> None:
    lies = [b'{"status": "COMPLETED", "output": "' + bytes([65 + number]) * 7_000_000 + b'"}' for number in range(6)]
    answers = await asyncio.gather(*(ingress.post(claimed.attempt_id, lie) for lie in lies))
    assert sorted(answers) == [200] * 3 + [429] * 3
    [row] = await ingress.harness.query("SELECT sum(octet_length(body)) AS size FROM generation.provider_callbacks")
    assert row.size <= ROOM["webhook"].size_bytes


async def test_large_bodies_are_received_a_few_at_a_time(ingress: IngressHarness, claimed: ClaimedOrder) -> None:
    begun: list[int] = []
    over = asyncio.Event()

    async def endless(number: int) -> AsyncIterator[bytes]:
        begun.append(number)
        yield b'{"lie": %d' % number
        await over.wait()
        yield b"}"

    url = ingress.url(claimed.attempt_id)
    sent = [
        asyncio.create_task(ingress.http.post(url, content=endless(number)))
        for number in range(LARGE_BODIES_AT_ONCE + 2)
    ]
    await eventually(lambda: len(begun) == LARGE_BODIES_AT_ONCE, what="as many as are received at a time")
    assert await ingress.post(claimed.attempt_id, {"status": "IN_PROGRESS"}) == 200, "a small one waits for none"
    assert len(begun) == LARGE_BODIES_AT_ONCE
    over.set()
    assert {answer.status_code for answer in await asyncio.gather(*sent)} == {200}
    assert len(begun) == LARGE_BODIES_AT_ONCE + 2


async def test_a_true_end_is_taken_after_any_number_of_lies(ingress: IngressHarness, claimed: ClaimedOrder) -> None:
    """The provider is polled all the same, and what it says has room of its own."""
    for number in range(40):
        await ingress.post(claimed.attempt_id, {"status": "IN_PROGRESS", "lie": number})
    truth = json.dumps({"id": "job-1", "status": "COMPLETED", "output": OUTPUT}).encode()
    assert await ingress.post(claimed.attempt_id, truth) == 429
    async with ingress.harness.transactions.begin() as tx:
        assert await add_callback(tx.connection, claimed.attempt_id, "status", truth)
    await ingress.processor.process()
    assert await ingress.harness.status(claimed.generation_id) == "storing"


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


@contextlib.asynccontextmanager
async def hearing_progress(
    harness: GenerationHarness, s3_server: S3Server, broker_settings: Any
) -> AsyncIterator[tuple[IngressHarness, list[GenerationProgress]]]:
    """An ingress on a broker of its own, and what a gateway hears of progress meanwhile."""
    broker = Broker.of(broker_settings("generation"), "generation")
    listener = Broker.of(broker_settings("gateway"), "gateway")
    received: list[GenerationProgress] = []

    async def hear(_: str, progress: GenerationProgress) -> None:
        received.append(progress)

    async with broker.open(), listener.open():
        ingress = IngressHarness(harness, s3_server, broker)
        subscription = await subscribe_live(listener, PROGRESS_SUBJECT, GenerationProgress, hear)
        await listener.client.flush()
        yield ingress, received
        await eventually(lambda: received)
        await broker.client.flush()
        await subscription.unsubscribe()
        await ingress.close()


async def test_progress_reaches_core_nats_at_most_once_a_second_and_starts_the_order(
    harness: GenerationHarness, s3_server: S3Server, broker_settings: Any
) -> None:
    one = order()
    await harness.enqueue(one)
    [claimed] = await harness.claim()
    await harness.execute("UPDATE generation.attempts SET status = 'submitted', provider_job_id = 'job-1'")
    async with hearing_progress(harness, s3_server, broker_settings) as (ingress, received):
        url = f"{ingress.url(claimed.attempt_id)}/progress"
        for percent in range(5):
            answer = await ingress.http.post(url, json={"percent": percent, "step": 1, "stage": "rendering"})
            assert answer.status_code == 204
        bad = await ingress.http.post(url, json={"percent": 101})
        assert bad.status_code == 400
    assert [(one.generation_id, one.percent, one.attempt_number) for one in received] == [(claimed.generation_id, 0, 1)]
    assert await harness.status(one.generation_id) == "running"
    assert (await harness.announced(one.generation_id)).count("generation-started") == 1


async def test_preview_and_node_travel_with_the_progress(
    harness: GenerationHarness, s3_server: S3Server, broker_settings: Any
) -> None:
    await harness.enqueue(order())
    [claimed] = await harness.claim()
    largest = b"\xff\xd8\xff".ljust(MAX_PREVIEW_BYTES, b"x")
    async with hearing_progress(harness, s3_server, broker_settings) as (ingress, received):
        url = f"{ingress.url(claimed.attempt_id)}/progress"
        for preview in (b"<svg onload=alert(1)>", largest + b"x"):
            refused = await ingress.http.post(url, json={"percent": 1, "preview": base64.b64encode(preview).decode()})
            assert refused.status_code == 400
        report = {"percent": 7, "node": "High noise steps", "preview": base64.b64encode(largest).decode()}
        assert (await ingress.http.post(url, json=report)).status_code == 204
    assert [(one.percent, one.node, one.preview) for one in received] == [(7, "High noise steps", largest)]
    [announced] = await harness.query("SELECT coalesce(sum(octet_length(payload)), 0) FROM generation.outbox_messages")
    assert announced[0] < len(largest), "a preview never goes through the outbox"


async def test_a_worker_cannot_make_a_user_read_words_of_its_own(
    harness: GenerationHarness, s3_server: S3Server, broker_settings: Any
) -> None:
    await harness.enqueue(order())
    [claimed] = await harness.claim()
    async with hearing_progress(harness, s3_server, broker_settings) as (ingress, received):
        report = {"percent": 7, "node": "rpa_ABCDEFGHIJ at https://evil.example"}
        assert (await ingress.http.post(f"{ingress.url(claimed.attempt_id)}/progress", json=report)).status_code == 204
    assert [(one.percent, one.node) for one in received] == [(7, None)]


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
    assert await ingress.post(claimed.attempt_id, b"stored, and not acted on") == 200
    await ingress.harness.execute(
        "UPDATE generation.provider_callbacks SET processed_at = now() - interval '1 day' WHERE outcome <> ''"
    )
    await timers(ingress.harness).purge()
    assert await bodies(ingress.harness) == 1


async def test_a_callback_is_acted_on_before_it_is_answered(ingress: IngressHarness, claimed: ClaimedOrder) -> None:
    body = {"id": "job-1", "status": "COMPLETED", "output": OUTPUT}
    assert await ingress.post(claimed.attempt_id, body) == 200
    assert await ingress.harness.status(claimed.generation_id) == "storing"
    [row] = await ingress.harness.query(
        "SELECT source, outcome, processed_at, due_at FROM generation.provider_callbacks"
    )
    assert (row.source, row.outcome, row.due_at) == ("webhook", "uploaded", None)
    assert row.processed_at is not None


async def test_a_callback_of_a_locked_order_is_acted_on_later_and_others_now(ingress: IngressHarness) -> None:
    harness = ingress.harness
    await harness.enqueue(order(), order())
    locked, free = await harness.claim()
    intake = CallbackIntake(harness.transactions, harness.policy, harness.wake_ups)
    body = json.dumps({"status": "COMPLETED", "output": OUTPUT}).encode()
    lock = text("SELECT FROM generation.video_generations WHERE generation_id = :id FOR UPDATE")
    async with harness.engine.connect() as elsewhere:
        await elsewhere.execute(lock, {"id": locked.generation_id})
        # They share a transaction.
        assert await asyncio.gather(*(intake.take(one.attempt_id, body) for one in (locked, free))) == [True, True]
        assert await harness.status(free.generation_id) == "storing"
    assert await harness.status(locked.generation_id) == "dispatching"
    assert harness.wake_ups.callbacks.is_set()
    await ingress.processor.process()
    assert await harness.status(locked.generation_id) == "storing"


async def test_a_callback_that_is_known_takes_nothing_from_those_that_come_with_it(
    ingress: IngressHarness,
) -> None:
    harness = ingress.harness
    await harness.enqueue(order(), order())
    first, second = await harness.claim()
    known = {"id": "job-1", "status": "IN_PROGRESS"}
    assert await ingress.post(first.attempt_id, known) == 200
    new = {"id": "job-2", "status": "COMPLETED", "output": OUTPUT}
    posted = (ingress.post(first.attempt_id, known), ingress.post(second.attempt_id, new))
    assert set(await asyncio.gather(*posted)) == {200}
    await ingress.processor.process()
    assert await harness.status(second.generation_id) == "storing"
    assert await bodies(harness) == 2
    assert await harness.counters() == (0, 1)


async def test_a_request_that_is_given_up_holds_up_no_other(harness: GenerationHarness) -> None:
    """Its body is acted on all the same."""
    await harness.enqueue(order(), order(), order())
    attempts = [one.attempt_id for one in await harness.claim()]
    intake = CallbackIntake(harness.transactions, harness.policy, harness.wake_ups)
    taking = [
        asyncio.create_task(intake.take(one, json.dumps({"status": "COMPLETED", "output": OUTPUT}).encode()))
        for one in attempts[:2]
    ]
    await asyncio.sleep(0)
    taking[0].cancel()
    async with asyncio.timeout(10):
        assert await taking[1]
        assert await intake.take(attempts[2], b'{"status": "IN_PROGRESS"}')
    assert taking[0].cancelled()
    outcomes = await harness.query("SELECT outcome FROM generation.provider_callbacks ORDER BY outcome")
    assert [row.outcome for row in outcomes] == ["running", "uploaded", "uploaded"]


async def test_many_callbacks_at_once_share_several_transactions(
    ingress: IngressHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callback_intake, "MOST_TOGETHER", 2)
    harness = ingress.harness
    await harness.enqueue(*(order() for _ in range(5)))
    claimed = await harness.claim()
    posted = (ingress.post(one.attempt_id, {"status": "COMPLETED", "output": OUTPUT}) for one in claimed)
    assert set(await asyncio.gather(*posted)) == {200}
    assert {await harness.status(one.generation_id) for one in claimed} == {"storing"}
    transactions = await harness.query("SELECT count(*) FROM generation.provider_callbacks GROUP BY xmin::text")
    assert max(together for (together,) in transactions) == 2


async def test_callbacks_wait_a_moment_only_for_the_counters_of_a_user(ingress: IngressHarness) -> None:
    harness = ingress.harness
    await harness.enqueue(order(), order())
    claimed = await harness.claim()
    counters = text("SELECT FROM generation.user_queues WHERE user_id = :user FOR UPDATE")
    async with harness.engine.connect() as elsewhere:
        await elsewhere.execute(counters, {"user": claimed[0].user_id})
        posted = (ingress.post(one.attempt_id, {"status": "COMPLETED", "output": OUTPUT}) for one in claimed)
        async with asyncio.timeout(LOCK_TIMEOUT_MS / 1000):
            assert await asyncio.gather(*posted) == [200, 200]
        assert await bodies(harness) == 2
    await ingress.processor.process()
    assert [await harness.status(one.generation_id) for one in claimed] == ["storing", "storing"]
