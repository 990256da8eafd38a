"""When a feed asks the broker, when it hands out a batch, and when it lets messages wait for others."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from nats.aio.msg import Msg

from messaging.errors import FeedLostError
from messaging.feed import Feed

BATCH = 4
LINGER_SECONDS = 20.0
PATIENCE_SECONDS = 10.0


class FeedHarness:
    """A feed whose broker is the test, and its time."""

    def __init__(self, linger_seconds: float) -> None:
        self.now = 1000.0
        self.requests: list[dict[str, Any]] = []
        self._deliver: Callable[[Msg], Awaitable[None]]
        client = SimpleNamespace(new_inbox=lambda: "inbox", subscribe=self._subscribe, publish=self._publish)
        broker: Any = SimpleNamespace(client=client, epoch=0)
        self.feed = Feed(broker, "BILLING", "gateway-billing", BATCH, linger_seconds)
        self._client: Any = client

    def monotonic(self) -> float:
        return self.now

    async def deliver(self, *names: str) -> None:
        for name in names:
            await self._deliver(Msg(_client=self._client, subject=name))

    async def end_request(self, pending: int, kind: str = "pull") -> None:
        await self._say(kind, "408", Description="Request Timeout", **{"Nats-Pending-Messages": str(pending)})

    async def refuse_request(self, kind: str = "pull") -> None:
        await self._say(kind, "408", Description="Requests Pending")

    async def say_no_messages(self) -> None:
        await self._say("probe", "404", Description="No Messages")

    async def _say(self, kind: str, status: str, **values: str) -> None:
        await self._deliver(Msg(_client=self._client, subject=f"inbox.{kind}", headers={"Status": status, **values}))

    async def first_batch(self) -> None:
        """Take a message that came after a quiet time."""
        waiting = self.waiting()
        await settle()
        await self.deliver("first")
        await self.end_request(BATCH - 1)
        assert await within_patience(waiting) == ["first"]

    def waiting(self) -> "asyncio.Task[list[str]]":
        return asyncio.create_task(self._batch())

    async def _batch(self) -> list[str]:
        return [message.subject for message in await self.feed.batch()]

    async def _subscribe(self, _subject: str, cb: Callable[[Msg], Awaitable[None]]) -> None:
        self._deliver = cb

    async def _publish(self, _subject: str, payload: bytes, _reply: str) -> None:
        self.requests.append(json.loads(payload))


async def settle() -> None:
    """Let the tasks go on until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def within_patience(waiting: "asyncio.Task[list[str]]") -> list[str]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await waiting


async def made(monkeypatch: pytest.MonkeyPatch, linger_seconds: float) -> FeedHarness:
    harness = FeedHarness(linger_seconds)
    monkeypatch.setattr("messaging.feed.time", harness)
    await harness.feed.open()
    return harness


@pytest.fixture
async def prompt(monkeypatch: pytest.MonkeyPatch) -> FeedHarness:
    return await made(monkeypatch, 0.0)


@pytest.fixture
async def lingering(monkeypatch: pytest.MonkeyPatch) -> FeedHarness:
    return await made(monkeypatch, LINGER_SECONDS)


async def test_what_arrives_is_taken_at_once_and_more_is_asked_for_when_half_is_used_up(prompt: FeedHarness) -> None:
    waiting = prompt.waiting()
    await settle()
    await prompt.deliver("a")
    assert await within_patience(waiting) == ["a"]
    assert [request["batch"] for request in prompt.requests] == [BATCH]
    await prompt.deliver("b")
    assert await within_patience(prompt.waiting()) == ["b"]
    assert [request["batch"] for request in prompt.requests] == [BATCH, BATCH // 2]
    assert not any("no_wait" in request for request in prompt.requests)


async def test_more_is_asked_for_before_a_batch_is_handled(prompt: FeedHarness) -> None:
    waiting = prompt.waiting()
    await settle()
    await prompt.deliver("a", "b", "c", "d")
    assert await within_patience(waiting) == ["a", "b", "c", "d"]
    assert [request["batch"] for request in prompt.requests] == [BATCH, BATCH]


async def test_a_message_after_a_quiet_time_does_not_wait(lingering: FeedHarness) -> None:
    await lingering.first_batch()
    [request] = lingering.requests
    assert request["no_wait"]
    assert request["expires"] > 0


async def test_after_a_batch_the_broker_keeps_messages_for_a_while(lingering: FeedHarness) -> None:
    await lingering.first_batch()
    waiting = lingering.waiting()
    await settle()
    assert len(lingering.requests) == 1
    lingering.now += LINGER_SECONDS
    lingering.feed.wake()
    await settle()
    assert len(lingering.requests) == 2
    await lingering.deliver("b")
    await settle()
    assert not waiting.done(), "the broker has not said that this was all"
    await lingering.deliver("c")
    await lingering.end_request(BATCH - 2)
    assert await within_patience(waiting) == ["b", "c"]


async def test_after_a_full_batch_the_next_one_is_asked_for_at_once(lingering: FeedHarness) -> None:
    waiting = lingering.waiting()
    await settle()
    await lingering.deliver("a", "b", "c", "d")
    assert await within_patience(waiting) == ["a", "b", "c", "d"]
    assert len(lingering.requests) == 2


async def test_a_request_that_expires_is_asked_again(lingering: FeedHarness) -> None:
    waiting = lingering.waiting()
    await settle()
    await lingering.end_request(BATCH)
    await settle()
    assert len(lingering.requests) == 2
    assert not waiting.done()
    waiting.cancel()


async def test_catching_up_asks_the_broker_and_waits_until_what_it_has_is_handled(lingering: FeedHarness) -> None:
    await lingering.first_batch()
    waiting = lingering.waiting()
    catching_up = asyncio.create_task(lingering.feed.catch_up())
    await settle()
    assert lingering.requests[1] == {"batch": BATCH, "no_wait": True}
    await lingering.deliver("b", "c")
    await lingering.end_request(BATCH - 2, "probe")
    assert await within_patience(waiting) == ["b", "c"]
    await settle()
    assert not catching_up.done(), "they are not handled yet"
    waiting = lingering.waiting()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await catching_up
    waiting.cancel()


async def test_catching_up_ends_when_the_broker_has_nothing(lingering: FeedHarness) -> None:
    await lingering.first_batch()
    waiting = lingering.waiting()
    catching_up = asyncio.create_task(lingering.feed.catch_up())
    await settle()
    await lingering.say_no_messages()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await catching_up
    lingering.now += LINGER_SECONDS
    lingering.feed.wake()
    await settle()
    assert lingering.requests[2]["expires"] > 0
    waiting.cancel()


async def test_catching_up_does_not_trust_an_open_request(lingering: FeedHarness) -> None:
    waiting = lingering.waiting()
    await settle()
    catching_up = asyncio.create_task(lingering.feed.catch_up())
    await settle()
    assert not catching_up.done(), "the answer may be on its way"
    await lingering.refuse_request("probe")
    await settle()
    assert len(lingering.requests) == 3
    await lingering.deliver("a")
    await lingering.end_request(BATCH - 1)
    await lingering.say_no_messages()
    assert await within_patience(waiting) == ["a"]
    waiting = lingering.waiting()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await catching_up
    waiting.cancel()


async def test_catching_up_ends_when_another_replica_gets_all_that_there_is(lingering: FeedHarness) -> None:
    await lingering.first_batch()
    waiting = lingering.waiting()
    catching_up = asyncio.create_task(lingering.feed.catch_up())
    await settle()
    await lingering.refuse_request("probe")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await catching_up
    waiting.cancel()


async def test_a_request_that_is_refused_for_those_of_another_replica_is_asked_later(lingering: FeedHarness) -> None:
    waiting = lingering.waiting()
    await settle()
    await lingering.refuse_request()
    await settle()
    assert not waiting.done()
    assert len(lingering.requests) == 1
    lingering.now += LINGER_SECONDS
    lingering.feed.wake()
    await settle()
    assert len(lingering.requests) == 2
    waiting.cancel()


async def test_catching_up_ends_with_the_feed(lingering: FeedHarness) -> None:
    await lingering.first_batch()
    catching_up = asyncio.create_task(lingering.feed.catch_up())
    await settle()
    assert not catching_up.done()
    await lingering.feed.retire()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await catching_up


async def test_a_lost_feed_says_so_while_messages_wait(lingering: FeedHarness) -> None:
    await lingering.first_batch()
    waiting = lingering.waiting()
    await settle()
    lingering.feed.lose("gone")
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(FeedLostError, match="gone"):
            await waiting
