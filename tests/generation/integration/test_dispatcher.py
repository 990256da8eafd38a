"""What the dispatcher does with answers that come at a bad moment, or are bad themselves."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from unittest.mock import Mock
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from catalogue import load_catalogue
from generation.callback_urls import CallbackUrls
from generation.domain.policy import BreakerPolicy
from generation.job_requests import JobRequests
from generation.loops.dispatcher import Dispatcher, DispatchLimits
from generation.stock_inputs import StockInputs
from service_runtime.backoff import Backoff
from service_runtime.database_watch import DatabaseClock
from service_runtime.presigned_urls import PresignedUrls
from tests.generation.harness import ENDPOINTS, GenerationHarness, order
from tests.generation.provider import Provider, answering, responds, responds_after, trickles
from tests.support.waiting import eventually

LIMITS = DispatchLimits(
    concurrency=32,
    poll_seconds=0.2,
    lease_seconds=30.0,
)
BREAKER = BreakerPolicy(5, Backoff(first=timedelta(seconds=2), longest=timedelta(seconds=60), jitter=0))
VIDEO, IMAGE = "/v2/video-id/run", "/v2/image-id/run"
WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@dataclass
class DispatcherHarness:
    """Drives a dispatcher against a provider."""

    harness: GenerationHarness
    provider: Provider
    dispatcher: Dispatcher

    async def attempt(self, generation_id: UUID) -> tuple[str, str | None]:
        """State and job id of an order's only attempt."""
        [attempt] = await self.harness.attempts(generation_id)
        return attempt.status, attempt.provider_job_id


@asynccontextmanager
async def dispatcher_harness(
    harness: GenerationHarness, call_seconds: float = 30.0, endpoints: Sequence[str] = ENDPOINTS
) -> AsyncIterator[DispatcherHarness]:
    urls = PresignedUrls("http://bucket", "auto", "key", "secret")
    callbacks = CallbackUrls("http://ingress", ["secret"])
    stock = StockInputs((), httpx.AsyncClient(), urls, "uploads")
    requests = JobRequests(harness.catalogue, callbacks, urls, "incoming", "uploads", stock, DatabaseClock())
    async with answering(call_seconds) as (provider, client):
        dispatcher = Dispatcher(
            harness.transactions, client, requests, endpoints, harness.policy, LIMITS, BREAKER, harness.wake_ups
        )
        yield DispatcherHarness(harness, provider, dispatcher)
        await dispatcher.drain()


@pytest.fixture
async def dispatch(harness: GenerationHarness) -> AsyncIterator[DispatcherHarness]:
    async with dispatcher_harness(harness) as dispatch:
        yield dispatch


async def test_orders_that_are_claimed_while_the_service_stops_are_submitted(dispatch: DispatcherHarness) -> None:
    """It is told to stop before it knows of the commit."""
    dispatch.provider.answers[VIDEO] = responds(b'{"id": "job-1"}')
    one = order()
    await dispatch.harness.enqueue(one)
    async with dispatch.harness.engine.connect() as elsewhere:
        await elsewhere.execute(text("SELECT FROM generation.endpoints FOR UPDATE"))
        dispatching = asyncio.create_task(dispatch.dispatcher.dispatch())
        await eventually(lambda: dispatch.harness.query(WAITING), what="the claim waits for the endpoint")
        dispatching.cancel()
        await asyncio.wait([dispatching])
    await dispatch.dispatcher.drain()
    assert await dispatch.attempt(one.generation_id) == ("submitted", "job-1")


async def test_a_queued_order_of_a_model_that_was_retired_still_runs(dispatch: DispatcherHarness) -> None:
    retired = order("ltx-video")
    assert load_catalogue().model("ltx-video").retired
    dispatch.provider.answers[VIDEO] = responds(b'{"id": "job-1"}')
    await dispatch.harness.enqueue(retired)
    await dispatch.dispatcher.dispatch()
    await dispatch.dispatcher.drain()
    assert await dispatch.attempt(retired.generation_id) == ("submitted", "job-1")


async def test_an_answer_is_not_lost_if_the_service_stops_while_it_is_recorded(dispatch: DispatcherHarness) -> None:
    dispatch.provider.answers[VIDEO] = responds(b'{"id": "job-1"}')
    one = order()
    await dispatch.harness.enqueue(one)
    await dispatch.dispatcher.dispatch()
    await asyncio.wait_for(dispatch.dispatcher.answered.wait(), 10)
    async with dispatch.harness.engine.connect() as elsewhere:
        await elsewhere.execute(text("SELECT FROM generation.video_generations FOR UPDATE"))
        recording = asyncio.create_task(dispatch.dispatcher.record())
        await eventually(lambda: dispatch.harness.query(WAITING), what="the recording waits for the order")
        recording.cancel()
        await asyncio.wait([recording])
    await dispatch.dispatcher.drain()
    assert await dispatch.attempt(one.generation_id) == ("submitted", "job-1")


async def test_an_unanswered_submission_does_not_delay_the_record_of_others_at_a_stop(
    dispatch: DispatcherHarness,
) -> None:
    late = asyncio.Event()
    dispatch.provider.answers[VIDEO] = responds(b'{"id": "job-1"}')
    dispatch.provider.answers[IMAGE] = responds_after(late, b'{"id": "job-2"}')
    prompt, tardy = order(), order("flux-schnell")
    await dispatch.harness.enqueue(prompt, tardy)
    await dispatch.dispatcher.dispatch()
    draining = asyncio.create_task(dispatch.dispatcher.drain())

    async def recorded() -> bool:
        return await dispatch.attempt(prompt.generation_id) == ("submitted", "job-1")

    try:
        await eventually(recorded, what="the answer is recorded while the other is waited for")
        assert not draining.done()
    finally:
        late.set()
        await draining
    assert await dispatch.attempt(tardy.generation_id) == ("submitted", "job-2")


@pytest.mark.parametrize("pause", ["1763900000", "9" * 400])
async def test_a_pause_that_would_never_end_is_cut_to_the_longest_of_the_breaker(
    dispatch: DispatcherHarness, pause: str
) -> None:
    dispatch.provider.answers[VIDEO] = responds(b"", f"retry-after: {pause}", status="429 Too Many Requests")
    dispatch.provider.answers[IMAGE] = responds(b'{"id": "job-2"}')
    refused, taken = order(), order("flux-schnell")
    await dispatch.harness.enqueue(refused, taken)
    await dispatch.dispatcher.dispatch()
    await dispatch.dispatcher.drain()
    [endpoint] = await dispatch.harness.query(
        "SELECT extract(epoch FROM held_until - clock_timestamp()) AS seconds FROM generation.endpoints"
        " WHERE endpoint = 'video'"
    )
    assert 0 < endpoint.seconds <= BREAKER.pauses.longest.total_seconds()
    assert await dispatch.attempt(taken.generation_id) == ("submitted", "job-2")


async def test_a_submission_whose_answer_trickles_for_ever_is_given_up(harness: GenerationHarness) -> None:
    async with dispatcher_harness(harness, call_seconds=0.3) as dispatch, asyncio.timeout(10):
        dispatch.provider.answers[VIDEO] = trickles
        one = order()
        await harness.enqueue(one)
        await dispatch.dispatcher.dispatch()
        await dispatch.dispatcher.drain()
        assert await dispatch.attempt(one.generation_id) == ("unknown", None)


async def test_a_submission_whose_answer_cannot_be_decoded_may_have_become_a_job(
    dispatch: DispatcherHarness,
) -> None:
    dispatch.provider.answers[VIDEO] = responds(b"this is no gzip", "content-encoding: gzip")
    one = order()
    await dispatch.harness.enqueue(one)
    await dispatch.dispatcher.dispatch()
    await dispatch.dispatcher.drain()
    assert await dispatch.attempt(one.generation_id) == ("unknown", None)


async def test_a_submission_that_fails_here_after_it_was_sent_may_have_become_a_job(
    dispatch: DispatcherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatch.provider.answers[VIDEO] = responds(b'{"id": "job-1"}')
    monkeypatch.setattr("generation.runpod.client.read_job_id", Mock(side_effect=MemoryError))
    one = order()
    await dispatch.harness.enqueue(one)
    await dispatch.dispatcher.dispatch()
    await dispatch.dispatcher.drain()
    assert dispatch.provider.calls == [VIDEO]
    assert await dispatch.attempt(one.generation_id) == ("unknown", None)


async def test_an_endpoint_that_hangs_leaves_the_others_their_share(dispatch: DispatcherHarness) -> None:
    late = asyncio.Event()
    dispatch.provider.answers[IMAGE] = responds_after(late, b'{"id": "job-2"}')
    dispatch.provider.answers[VIDEO] = responds(b'{"id": "job-1"}')
    prompt = order()
    await dispatch.harness.enqueue(*(order("flux-schnell") for _ in range(2 * LIMITS.concurrency)), prompt)
    await dispatch.dispatcher.dispatch()
    try:
        # Of the two endpoints, only this one answers.
        await asyncio.wait_for(dispatch.dispatcher.answered.wait(), 10)
        await dispatch.dispatcher.record()
        assert await dispatch.attempt(prompt.generation_id) == ("submitted", "job-1")
    finally:
        late.set()


async def test_a_replica_that_is_frozen_in_a_claim_stops_one_endpoint_only(dispatch: DispatcherHarness) -> None:
    dispatch.provider.answers[VIDEO] = responds(b'{"id": "job-1"}')
    await dispatch.harness.enqueue(order(), order("flux-schnell"))
    async with dispatch.harness.engine.connect() as frozen:
        await frozen.execute(text("SELECT FROM generation.endpoints WHERE endpoint = 'image' FOR UPDATE"))
        dispatching = asyncio.create_task(dispatch.dispatcher.dispatch())
        await eventually(lambda: VIDEO in dispatch.provider.calls, what="the other endpoint's order is submitted")
        with pytest.raises(DBAPIError, match="lock timeout"):
            await dispatching


async def test_a_job_id_is_recorded_even_if_the_breaker_cannot_be_updated(dispatch: DispatcherHarness) -> None:
    dispatch.provider.answers[IMAGE] = responds(b"", status="503 Service Unavailable")
    dispatch.provider.answers[VIDEO] = responds(b'{"id": "job-1"}')
    taken, refused = order(), order("flux-schnell")
    await dispatch.harness.enqueue(taken, refused)
    await dispatch.dispatcher.dispatch()
    await eventually(lambda: len(dispatch.dispatcher._answers) == 2)
    async with dispatch.harness.engine.connect() as frozen:
        await frozen.execute(text("SELECT FROM generation.endpoints WHERE endpoint = 'image' FOR UPDATE"))
        with pytest.raises(DBAPIError, match="lock timeout"):
            await dispatch.dispatcher.record()
        assert await dispatch.attempt(taken.generation_id) == ("submitted", "job-1")
