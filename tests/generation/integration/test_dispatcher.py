"""What the dispatcher makes of answers that come at a bad moment, or are bad themselves."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from generation.callback_urls import CallbackUrls
from generation.dispatcher import Dispatcher, DispatchLimits
from generation.job_requests import JobRequests
from messaging.transaction import Transaction, Transactions
from service_runtime.presigned_urls import PresignedUrls
from tests.generation.bench import ENDPOINTS, Bench, order
from tests.generation.provider import Provider, answering, says, says_after, trickles
from tests.support.waiting import eventually

LIMITS = DispatchLimits(
    concurrency=32,
    poll_seconds=0.2,
    lease_seconds=30.0,
    breaker_threshold=5,
    breaker_first_seconds=2.0,
    breaker_longest_seconds=60.0,
)
VIDEO, IMAGE = "/v2/video-id/run", "/v2/image-id/run"


@dataclass
class Desk:
    """A dispatcher on a bench, before a provider."""

    bench: Bench
    provider: Provider
    dispatcher: Dispatcher

    async def attempt(self, generation_id: UUID) -> tuple[str, str | None]:
        """State and job id of an order's only attempt."""
        [attempt] = await self.bench.attempts(generation_id)
        return attempt.status, attempt.provider_job_id


@asynccontextmanager
async def at_desk(
    bench: Bench, call_seconds: float = 30.0, endpoints: Sequence[str] = ENDPOINTS
) -> AsyncIterator[Desk]:
    urls = PresignedUrls("http://bucket", "auto", "key", "secret")
    requests = JobRequests(bench.catalogue, CallbackUrls("http://ingress", ["secret"]), urls, "incoming", "uploads")
    async with answering(call_seconds) as (provider, client):
        dispatcher = Dispatcher(bench.transactions, client, requests, endpoints, bench.policy, LIMITS, bench.wakes)
        yield Desk(bench, provider, dispatcher)
        await dispatcher.drain()


@pytest.fixture
async def desk(bench: Bench) -> AsyncIterator[Desk]:
    async with at_desk(bench) as desk:
        yield desk


class SlowNews(Transactions):
    """Time passes between a commit and the news of it."""

    def __init__(self, transactions: Transactions) -> None:
        super().__init__(transactions.engine, transactions.producer)
        self.committed, self.told = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        async with super().begin() as tx:
            yield tx
        self.committed.set()
        await self.told.wait()


async def test_orders_that_were_claimed_when_the_service_is_told_to_stop_are_submitted(bench: Bench) -> None:
    bench.transactions = news = SlowNews(bench.transactions)
    one = order()
    news.told.set()
    await bench.enqueue(one)
    news.told.clear()
    news.committed.clear()
    async with at_desk(bench, endpoints=["video"]) as desk:
        desk.provider.answers[VIDEO] = says(b'{"id": "job-1"}')
        dispatching = asyncio.create_task(desk.dispatcher.dispatch())
        await asyncio.wait_for(news.committed.wait(), 10)
        dispatching.cancel()
        await asyncio.wait([dispatching])
        news.told.set()
        await desk.dispatcher.drain()
        assert await desk.attempt(one.generation_id) == ("submitted", "job-1")


async def test_an_answer_that_is_being_recorded_when_the_service_is_told_to_stop_is_not_lost(desk: Desk) -> None:
    desk.provider.answers[VIDEO] = says(b'{"id": "job-1"}')
    one = order()
    await desk.bench.enqueue(one)
    await desk.dispatcher.dispatch()
    await asyncio.wait_for(desk.dispatcher.answered.wait(), 10)
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with desk.bench.engine.connect() as elsewhere:
        await elsewhere.execute(text("SELECT FROM generation.video_generations FOR UPDATE"))
        recording = asyncio.create_task(desk.dispatcher.record())
        await eventually(lambda: desk.bench.query(waiting), what="the recording waits for the order")
        recording.cancel()
        await asyncio.wait([recording])
    await desk.dispatcher.drain()
    assert await desk.attempt(one.generation_id) == ("submitted", "job-1")


async def test_a_submission_without_an_answer_keeps_no_other_from_being_recorded_at_the_end(desk: Desk) -> None:
    late = asyncio.Event()
    desk.provider.answers[VIDEO] = says(b'{"id": "job-1"}')
    desk.provider.answers[IMAGE] = says_after(late, b'{"id": "job-2"}')
    prompt, tardy = order(), order("flux-schnell")
    await desk.bench.enqueue(prompt, tardy)
    await desk.dispatcher.dispatch()
    draining = asyncio.create_task(desk.dispatcher.drain())

    async def recorded() -> bool:
        return await desk.attempt(prompt.generation_id) == ("submitted", "job-1")

    try:
        await eventually(recorded, what="the answer is recorded while the other is waited for")
        assert not draining.done()
    finally:
        late.set()
        await draining
    assert await desk.attempt(tardy.generation_id) == ("submitted", "job-2")


@pytest.mark.parametrize("pause", ["1763900000", "9" * 400])
async def test_a_pause_that_would_never_end_is_cut_to_the_longest_that_the_breaker_makes(
    desk: Desk, pause: str
) -> None:
    desk.provider.answers[VIDEO] = says(b"", f"retry-after: {pause}", status="429 Too Many Requests")
    desk.provider.answers[IMAGE] = says(b'{"id": "job-2"}')
    refused, taken = order(), order("flux-schnell")
    await desk.bench.enqueue(refused, taken)
    await desk.dispatcher.dispatch()
    await desk.dispatcher.drain()
    [endpoint] = await desk.bench.query(
        "SELECT extract(epoch FROM held_until - clock_timestamp()) AS seconds FROM generation.endpoints"
        " WHERE endpoint = 'video'"
    )
    assert 0 < endpoint.seconds <= LIMITS.breaker_longest_seconds
    assert await desk.attempt(taken.generation_id) == ("submitted", "job-2")


async def test_a_submission_whose_answer_trickles_in_for_ever_is_given_up(bench: Bench) -> None:
    async with at_desk(bench, call_seconds=0.3) as desk, asyncio.timeout(10):
        desk.provider.answers[VIDEO] = trickles
        one = order()
        await bench.enqueue(one)
        await desk.dispatcher.dispatch()
        await desk.dispatcher.drain()
        assert await desk.attempt(one.generation_id) == ("unknown", None)


async def test_a_submission_whose_answer_cannot_be_decoded_may_have_become_a_job(desk: Desk) -> None:
    desk.provider.answers[VIDEO] = says(b"this is no gzip", "content-encoding: gzip")
    one = order()
    await desk.bench.enqueue(one)
    await desk.dispatcher.dispatch()
    await desk.dispatcher.drain()
    assert await desk.attempt(one.generation_id) == ("unknown", None)


async def test_an_endpoint_whose_submissions_hang_leaves_the_others_their_share(desk: Desk) -> None:
    late = asyncio.Event()
    desk.provider.answers[IMAGE] = says_after(late, b'{"id": "job-2"}')
    desk.provider.answers[VIDEO] = says(b'{"id": "job-1"}')
    prompt = order()
    await desk.bench.enqueue(*(order("flux-schnell") for _ in range(2 * LIMITS.concurrency)), prompt)
    await desk.dispatcher.dispatch()
    try:
        await eventually(lambda: VIDEO in desk.provider.calls, what="the other endpoint's order is submitted")
        await desk.dispatcher.record()
        assert await desk.attempt(prompt.generation_id) == ("submitted", "job-1")
    finally:
        late.set()


async def test_a_replica_that_is_frozen_in_a_claim_stops_one_endpoint_and_no_other(desk: Desk) -> None:
    desk.provider.answers[VIDEO] = says(b'{"id": "job-1"}')
    await desk.bench.enqueue(order(), order("flux-schnell"))
    async with desk.bench.engine.connect() as frozen:
        await frozen.execute(text("SELECT FROM generation.endpoints WHERE endpoint = 'image' FOR UPDATE"))
        dispatching = asyncio.create_task(desk.dispatcher.dispatch())
        await eventually(lambda: VIDEO in desk.provider.calls, what="the other endpoint's order is submitted")
        with pytest.raises(DBAPIError, match="lock timeout"):
            await dispatching


async def test_a_job_id_is_recorded_even_if_the_breaker_cannot_be_told_of_another_answer(desk: Desk) -> None:
    desk.provider.answers[IMAGE] = says(b"", status="503 Service Unavailable")
    desk.provider.answers[VIDEO] = says(b'{"id": "job-1"}')
    taken, refused = order(), order("flux-schnell")
    await desk.bench.enqueue(taken, refused)
    await desk.dispatcher.dispatch()
    await eventually(lambda: len(desk.dispatcher._answers) == 2)
    async with desk.bench.engine.connect() as frozen:
        await frozen.execute(text("SELECT FROM generation.endpoints WHERE endpoint = 'image' FOR UPDATE"))
        with pytest.raises(DBAPIError, match="lock timeout"):
            await desk.dispatcher.record()
        assert await desk.attempt(taken.generation_id) == ("submitted", "job-1")
