"""When a feed hands out a batch, and when it lets messages wait for others."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from nats.aio.msg import Msg

from messaging.errors import FeedLostError
from messaging.feed import Feed

BATCH = 4
LINGER_SECONDS = 20.0
PATIENCE_SECONDS = 20.0


class FeedHarness:
    """A feed without a broker, and its time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._deliver: Callable[[Msg], Awaitable[None]]
        client = SimpleNamespace(new_inbox=lambda: "inbox", subscribe=self._subscribe, publish=self._publish)
        broker: Any = SimpleNamespace(client=client, epoch=0)
        self.feed = Feed(broker, "BILLING", "gateway-billing", BATCH, LINGER_SECONDS)
        self._client: Any = client

    def monotonic(self) -> float:
        return self.now

    async def deliver(self, *names: str) -> None:
        for name in names:
            await self._deliver(Msg(_client=self._client, subject=name))

    def waiting(self) -> "asyncio.Task[list[str]]":
        return asyncio.create_task(self._batch())

    async def batch(self) -> list[str]:
        async with asyncio.timeout(PATIENCE_SECONDS / 2):
            return await self._batch()

    async def _batch(self) -> list[str]:
        return [message.subject for message in await self.feed.batch()]

    async def _subscribe(self, _subject: str, cb: Callable[[Msg], Awaitable[None]]) -> None:
        self._deliver = cb

    async def _publish(self, *_: object) -> None:
        """Nobody is asked for more."""


@pytest.fixture
async def harness(monkeypatch: pytest.MonkeyPatch) -> FeedHarness:
    made = FeedHarness()
    monkeypatch.setattr("messaging.feed.time", made)
    await made.feed.open()
    return made


async def test_a_message_after_a_quiet_time_does_not_wait(harness: FeedHarness) -> None:
    harness.now += LINGER_SECONDS
    await harness.deliver("a")
    assert await harness.batch() == ["a"]


async def test_a_message_soon_after_a_batch_waits_for_others(harness: FeedHarness) -> None:
    harness.now += LINGER_SECONDS
    await harness.deliver("a")
    await harness.batch()
    waiting = harness.waiting()
    await harness.deliver("b", "c")
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    harness.now += LINGER_SECONDS
    harness.feed.wake()
    assert await waiting == ["b", "c"]


async def test_a_full_batch_waits_for_nothing(harness: FeedHarness) -> None:
    waiting = harness.waiting()
    await harness.deliver("a")
    await asyncio.sleep(0)
    await harness.deliver("b", "c", "d")
    async with asyncio.timeout(PATIENCE_SECONDS / 2):
        assert await waiting == ["a", "b", "c", "d"]


async def test_a_lost_feed_says_so_while_messages_wait(harness: FeedHarness) -> None:
    waiting = harness.waiting()
    await harness.deliver("a")
    await asyncio.sleep(0)
    harness.feed.lose("gone")
    async with asyncio.timeout(PATIENCE_SECONDS / 2):
        with pytest.raises(FeedLostError, match="gone"):
            await waiting
