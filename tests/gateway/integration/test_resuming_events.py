"""The event stream: nothing is lost and nothing comes twice, with several writers."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa

from contracts.billing import CreditsGranted
from contracts.generation import GenerationQueued, GenerationStarted
from contracts.live import PROGRESS_SUBJECT, GenerationProgress
from contracts.values import LedgerLine
from gateway.routes.events import PAGE
from messaging.ids import new_id
from messaging.live import publish_live
from tests.gateway.harness import PICTURE, Client, Event, GatewayHarness, now
from tests.support.tcp_proxy import tcp_proxy
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(30, method="thread")


def granted_for_payment(user_id: UUID) -> CreditsGranted:
    """A message that adds one entry to the user's history."""
    return CreditsGranted(grant_id=new_id(), user_id=user_id, amount_credits=1, payment_id=new_id(), lines=())


def granted(user_id: UUID, line_number: int) -> CreditsGranted:
    """One credit arrives on an account that had ``line_number`` - 1."""
    line = LedgerLine(
        line_number=line_number,
        transfer_id=new_id(),
        user_id=user_id,
        reason="goodwill",
        available_delta_credits=1,
        reserved_delta_credits=0,
        available_after_credits=line_number,
        reserved_after_credits=0,
        occurred_at=now(),
    )
    return CreditsGranted(grant_id=new_id(), user_id=user_id, amount_credits=1, lines=(line,))


async def sequence_of(harness: GatewayHarness, user_id: UUID) -> int:
    rows = await harness.rows("SELECT sequence FROM gateway.activity_heads WHERE user_id = :id", id=user_id)
    return rows[0].sequence if rows else 0


async def take(client: Client, count: int, last_event_id: int | None = None) -> list[Event]:
    """The next ``count`` events with an id."""
    taken: list[Event] = []
    async with client.events(last_event_id) as events:
        async for event in events:
            if event.id is not None:
                taken.append(event)
            if len(taken) == count:
                break
    return taken


async def test_a_client_that_keeps_reconnecting_sees_every_event_of_two_writers_once(
    harness: GatewayHarness,
) -> None:
    one, other = await harness.gateway(), await harness.gateway()
    user_id = new_id()
    clients = [harness.user(one, user_id), harness.user(other, user_id)]
    total = 300
    seen: list[int] = []

    async def read() -> None:
        position, turn = 0, 0
        while position < total:
            # A few events from one replica, then on to the other one.
            batch = await take(clients[turn % 2], min(1 + turn % 7, total - position), position)
            seen.extend(int(event.id or 0) for event in batch)
            position, turn = seen[-1], turn + 1

    reading = asyncio.create_task(read())
    producer = await harness.producer("billing")
    for _ in range(total // 10):
        async with producer.transactions.begin() as tx:
            for _ in range(10):
                tx.publish(granted_for_payment(user_id), correlation_id=user_id)
    await asyncio.wait_for(reading, 60)
    assert seen == list(range(1, total + 1))


async def test_the_streamed_balance_only_moves_forward_while_two_replicas_write(
    harness: GatewayHarness,
) -> None:
    gateway, _ = await harness.gateway(), await harness.gateway()
    user = harness.user(gateway)
    producer = await harness.producer("billing")
    seen: list[int] = []
    async with user.events(0) as events:
        for first in range(1, 401, 2):
            async with producer.transactions.begin() as tx:
                for number in (first, first + 1):
                    tx.publish(granted(user.user_id, number), correlation_id=user.user_id)
        while not seen or seen[-1] < 400:
            event = await asyncio.wait_for(anext(events), 10)
            seen.append(event.data["line_number"])
            assert event.data["available_credits"] == seen[-1]
    assert seen == sorted(set(seen))


async def test_when_two_batches_commit_in_the_wrong_order_only_the_later_balance_is_sent(
    harness: GatewayHarness,
) -> None:
    gateway = await harness.gateway()
    user = harness.user(gateway)
    async with user.events(0) as events:
        for number in (2, 1, 3):
            await harness.publish("billing", granted(user.user_id, number), about=user.user_id)
            await eventually(lambda n=number: _has_line(harness, user.user_id, n), what="the line")  # type: ignore[misc]
        line_numbers = [(await asyncio.wait_for(anext(events), 10)).data["line_number"] for _ in range(2)]
    assert line_numbers == [2, 3]


async def _has_line(harness: GatewayHarness, user_id: UUID, number: int) -> bool:
    query = "SELECT 1 FROM gateway.ledger_lines WHERE user_id = :id AND line_number = :number"
    return bool(await harness.rows(query, id=user_id, number=number))


async def test_an_entry_that_commits_late_is_not_skipped_by_an_open_stream(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    user = harness.user(gateway)
    await harness.publish("billing", granted_for_payment(user.user_id), about=user.user_id)
    async with user.events(0) as events:
        assert (await anext(events)).id == "1"
        # A transaction has taken the next number and does not commit: the next writer waits for it.
        async with harness.admin.begin() as slow:
            await slow.exec_driver_sql(
                f"UPDATE gateway.activity_heads SET sequence = sequence WHERE user_id = '{user.user_id}'"
            )
            await harness.publish("billing", granted_for_payment(user.user_id), about=user.user_id)
            await harness.publish("billing", granted_for_payment(user.user_id), about=user.user_id)
            waiting = "SELECT 1 FROM pg_stat_activity WHERE usename = 'gateway' AND wait_event_type = 'Lock'"
            await eventually(lambda: harness.rows(waiting), what="a projection that waits for the lock")
            assert await sequence_of(harness, user.user_id) == 1
        assert [(await anext(events)).id, (await anext(events)).id] == ["2", "3"]


async def _beyond(harness: GatewayHarness, user_id: UUID, number: int) -> bool:
    return await sequence_of(harness, user_id) > number


async def test_a_stream_without_a_position_begins_now_and_sends_its_position(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    user = harness.user(gateway)
    await harness.publish("billing", granted_for_payment(user.user_id), about=user.user_id)
    await eventually(lambda: _beyond(harness, user.user_id, 0), what="the first entry")
    headers = {"Authorization": f"Bearer {user.token}"}
    async with gateway.http.stream("GET", "/v1/events", headers=headers) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        lines = response.aiter_lines()
        first = [await anext(lines) for _ in range(2)]
    assert "id: 1" in first


async def test_a_position_above_the_newest_does_not_silence_the_stream(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    user = harness.user(gateway)
    async with user.events(10**9) as events:
        await harness.publish("billing", granted_for_payment(user.user_id), about=user.user_id)
        assert (await asyncio.wait_for(anext(events), 10)).id == "1"


async def test_progress_has_no_id_and_reaches_only_its_user(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    user, other = harness.user(gateway), harness.user(gateway)
    generation_id = new_id()
    progress = GenerationProgress(
        generation_id=generation_id, user_id=user.user_id, attempt_number=1, percent=40, stage="rendering"
    )
    async with user.events() as events, other.events() as quiet:
        broker = (await harness.producer("generation")).broker
        await broker.connected()
        await publish_live(broker, PROGRESS_SUBJECT, progress)
        event = await asyncio.wait_for(anext(events), 10)
        assert (event.id, event.name) == (None, "generation.progress")
        assert (event.data["generation_id"], event.data["percent"]) == (str(generation_id), 40)
        await harness.publish("billing", granted_for_payment(other.user_id), about=other.user_id)
        assert (await asyncio.wait_for(anext(quiet), 10)).name == "payment.updated"


async def test_preview_outlives_newer_progress_that_has_none(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    user = harness.user(gateway)
    about: dict[str, Any] = {"generation_id": new_id(), "user_id": user.user_id, "attempt_number": 1}
    with gateway.gateway.dependencies.live_events.streaming(user.user_id) as stream:

        def arrived(percent: int) -> bool:
            return [one.percent for one in stream.progress.values()] == [percent]

        for progress in (
            GenerationProgress(**about, percent=40, node="Decode", preview=b"\xff\xd8\xff"),
            GenerationProgress(**about, percent=41),
        ):
            broker = (await harness.producer("generation")).broker
            await broker.connected()
            await publish_live(broker, PROGRESS_SUBJECT, progress)
            await eventually(partial(arrived, progress.percent))
        [taken] = stream.take_progress()
    assert (taken.percent, taken.preview) == (41, b"\xff\xd8\xff")


async def test_a_stream_at_another_replica_wakes_at_once(harness: GatewayHarness) -> None:
    # Both share the durable consumer: whichever takes the message, the stream has to wake.
    writer = await harness.gateway(verdict_wait_seconds=0.05, heartbeat_seconds=60.0)
    reader = await harness.gateway(heartbeat_seconds=60.0)
    user_id = new_id()
    ordered = await harness.user(writer, user_id).order(PICTURE)
    async with harness.user(reader, user_id).events() as events:
        began = time.monotonic()
        queued = GenerationQueued(generation_id=ordered.json()["id"], user_id=user_id, version=1, lane="free")
        await harness.publish("generation", queued, about=user_id)
        event = await asyncio.wait_for(anext(events), 10)
        assert event.name == "generation.updated"
        assert time.monotonic() - began < 3


async def test_streams_of_all_users_of_a_batch_wake_at_another_replica(harness: GatewayHarness) -> None:
    writer, reader = await harness.gateway(), await harness.gateway()
    users = [new_id() for _ in range(3)]
    with contextlib.ExitStack() as registered:
        live_events = reader.gateway.dependencies.live_events
        streams = [registered.enter_context(live_events.streaming(user_id)) for user_id in users]
        writer.gateway.dependencies.live_events.projected(set(users[:2]))
        await eventually(lambda: all(stream.wake.is_set() for stream in streams[:2]), what="the wake-ups")
        assert not streams[2].wake.is_set()


async def test_a_stream_reads_the_history_once_for_each_thing_that_happens(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(heartbeat_seconds=60.0)
    user = harness.user(gateway)
    reads = 0

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal reads
        reads += "sequence > " in statement

    sa.event.listen(gateway.gateway.dependencies.engine.sync_engine, "before_cursor_execute", count)
    async with user.events() as events:
        for number in range(1, 6):
            await harness.publish("billing", granted_for_payment(user.user_id), about=user.user_id)
            assert (await asyncio.wait_for(anext(events), 10)).id == str(number)
    assert reads == 1 + 5


async def test_a_history_longer_than_a_page_is_sent_to_its_end(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(heartbeat_seconds=60.0)
    user = harness.user(gateway)
    total = 2 * PAGE + 1
    granted_all = [granted_for_payment(user.user_id) for _ in range(total)]
    await harness.publish("billing", *granted_all, about=user.user_id)
    await eventually(lambda: _beyond(harness, user.user_id, total - 1), what="the history")
    seen = [event.id for event in await asyncio.wait_for(take(user, total, 0), 20)]
    assert seen == [str(number) for number in range(1, total + 1)]


async def test_the_stream_ends_when_the_token_does(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    user = harness.user(gateway, exp=int(time.time()) + 3)
    began = time.monotonic()
    async with user.events() as events:
        assert [event async for event in events] == []
    assert 1 < time.monotonic() - began < 8


async def test_a_quiet_stream_sends_heartbeats(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(heartbeat_seconds=0.1)
    user = harness.user(gateway)
    async with gateway.http.stream("GET", "/v1/events", headers=user.headers(None)) as response:
        beats = 0
        async for line in response.aiter_lines():
            beats += line.startswith(": ")
            if beats == 3:
                break


async def test_draining_ends_every_stream(harness: GatewayHarness) -> None:
    gateway = await harness.gateway()
    async with harness.user(gateway).events() as events:
        gateway.gateway.drain()
        assert [event async for event in events] == []


async def test_streams_of_one_user_are_limited_and_free_their_place_when_they_end(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(event_streams_per_user=2)
    user = harness.user(gateway)
    async with contextlib.AsyncExitStack() as open_streams:
        for _ in range(2):
            await open_streams.enter_async_context(user.events())
        refused = await user.get("/v1/events")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_event_streams")
        assert "Retry-After" in refused.headers

    async def free() -> bool:
        with contextlib.suppress(AssertionError):
            async with user.events():
                return True
        return False

    await eventually(free, what="a free place")


async def test_streams_occupy_no_database_connection(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(database_pool_size=8, event_streams_per_user=30)
    user = harness.user(gateway)
    limits = httpx.Limits(max_connections=40)
    async with (
        httpx.AsyncClient(base_url=gateway.url, timeout=30, trust_env=False, limits=limits) as http,
        contextlib.AsyncExitStack() as open_streams,
    ):
        for _ in range(30):
            await open_streams.enter_async_context(Client(http, user.user_id, user.token, user.document).events())
        assert (await user.get("/v1/balance")).status_code == 200


async def test_a_stream_outlives_an_outage_of_the_database(harness: GatewayHarness) -> None:
    dsn = harness.database.dsn("gateway")
    async with tcp_proxy(urlsplit(dsn).port or 5432) as proxy:
        gateway = await harness.gateway(database_url=proxy.through(dsn), heartbeat_seconds=0.2)
        user = harness.user(gateway)
        async with user.http.stream("GET", "/v1/events", headers=user.headers(None)) as answer:
            lines = answer.aiter_lines()
            assert await line_of(lines, "still here")
            server, proxy.target = proxy.target, ("127.0.0.1", 1)
            proxy.silence_established()()
            assert await line_of(lines, "the history cannot be read at the moment")
            proxy.target = server
            await harness.publish("billing", granted(user.user_id, 1), about=user.user_id)
            assert await line_of(lines, "event: balance.updated")


async def line_of(lines: AsyncIterator[str], text: str) -> str:
    """The next line that holds ``text``."""
    async with asyncio.timeout(20):
        return await anext(line async for line in lines if text in line)


async def test_an_event_names_its_generation_and_the_new_status(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.05)
    user = harness.user(gateway)
    generation_id = (await user.order(PICTURE)).json()["id"]
    moves: list[Any] = [
        GenerationQueued(generation_id=generation_id, user_id=user.user_id, version=1, lane="free"),
        GenerationStarted(
            generation_id=generation_id,
            user_id=user.user_id,
            version=3,
            attempt_id=new_id(),
            attempt_number=1,
            started_at=now(),
        ),
    ]
    await harness.publish("generation", *moves, about=UUID(generation_id))
    events = await asyncio.wait_for(take(user, 2, 0), 15)
    assert [event.name for event in events] == ["generation.updated"] * 2
    assert [event.id for event in events] == ["1", "2"]
    assert all(generation_id in event.data.values() for event in events)
    assert events[-1].data["status"] == "running"
