"""Durable consumers: one for each service and source stream, read in batches."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

import structlog
from nats.aio.msg import Msg
from nats.js.api import ConsumerInfo

from contracts.message import Service
from contracts.permissions import durable_name
from contracts.registry import stream_of
from messaging import metrics
from messaging.batches import Batches, Handler, Subscription
from messaging.broker import Broker
from messaging.database import is_unavailable, single_statements
from messaging.dead_letters import DeadLetters
from messaging.errors import NotProvisionedError
from messaging.feed import FEED_ERRORS, Feed
from messaging.lineage import FloorCheck, Lineage
from messaging.settings import ConsumerLimits
from messaging.topology import (
    ACK_WAIT_SECONDS,
    consumer_differences,
    durable_config,
    filters_of,
    find_consumer,
    hold_against,
)
from messaging.transaction import Transactions
from service_runtime.lifecycle import Component, to_the_end

__all__ = ["ConsumerGroup", "Handler", "Subscription"]

_log = structlog.get_logger("messaging.consumers")

_REBUILD_SECONDS: Final = 0.2
_AWAIT_POLL_SECONDS: Final = 0.5
_AWAIT_LOG_EVERY: Final = 20
_DRAIN_SECONDS: Final = 10.0
_CATCH_UP_SECONDS: Final = 0.5
"""How long a batch waits at most for another stream. Then its messages may be early, and are deferred."""
REPLAY_POLL_SECONDS: Final = 10.0


class ConsumerGroup:
    """All consumers of one service."""

    def __init__(
        self,
        service: Service,
        subscriptions: Sequence[Subscription],
        transactions: Transactions,
        broker: Broker,
        lineage: Lineage,
        limits: ConsumerLimits,
        replays_wanted: asyncio.Event,
    ) -> None:
        self._transactions = transactions
        self._replays_wanted = replays_wanted
        by_stream: dict[str, list[Subscription]] = {}
        for subscription in subscriptions:
            if service not in subscription.message_type.consumers:
                raise ValueError(f"the contracts do not name {service} as a reader of {subscription.message_type}")
            by_stream.setdefault(stream_of(subscription.message_type.subject), []).append(subscription)
        self.consumers = [
            StreamConsumer(service, stream, by_stream[stream], transactions, broker, lineage, limits)
            for stream in sorted(by_stream)
        ]
        by_name = {consumer.stream: consumer for consumer in self.consumers}
        for subscription in subscriptions:
            if subscription.after is not None:
                first, then = (stream_of(one.subject) for one in (subscription.after, subscription.message_type))
                by_name[then].let_first(subscription.message_type.subject, by_name[first])

    async def ready(self) -> None:
        """Return if every consumer is there as we need it. Raises NotProvisionedError otherwise."""
        for consumer in self.consumers:
            await consumer.ready()

    def components(self) -> list[Component]:
        """What has to run: the consumers, and the replay of their dead letters."""
        if not self.consumers:
            return []
        return [*self.consumers, Replays(self.consumers, self._transactions, self._replays_wanted)]


class StreamConsumer:
    """Component that reads one stream through one durable consumer."""

    def __init__(
        self,
        service: Service,
        stream: str,
        subscriptions: Sequence[Subscription],
        transactions: Transactions,
        broker: Broker,
        lineage: Lineage,
        limits: ConsumerLimits,
    ) -> None:
        self.stream = stream
        self.durable = durable_name(service, stream)
        self.name = f"consumer {self.durable}"
        self._broker = broker
        self._limits = limits
        self._wanted = durable_config(service, stream)
        self._wanted.filter_subjects = sorted(subscription.message_type.subject for subscription in subscriptions)
        self._ack_wait_seconds = ACK_WAIT_SECONDS
        self._waits_for: NotProvisionedError | None = NotProvisionedError(
            f"the consumer {self.durable} was not seen yet"
        )
        self._linger_seconds = min(subscription.linger_seconds for subscription in subscriptions)
        self.batches = Batches(service, stream, self.durable, subscriptions, transactions, limits.max_deliveries)
        self._lineage = lineage
        self._floor_check = FloorCheck(transactions.engine, broker, lineage, stream, self.batches)
        self._first: dict[str, StreamConsumer] = {}
        self._in_work: Sequence[Msg] = ()
        self._feed: Feed | None = None
        self._lost_feed: Feed | None = None
        broker.on_reconnect(self._wake)
        lineage.on_doubt(self._begin_anew)
        metrics.start_consumer(service, stream, self.durable, [one.message_type.subject for one in subscriptions])

    def let_first(self, subject: str, other: "StreamConsumer") -> None:
        """Before a batch with a message of ``subject``, let ``other`` handle what the broker has for it."""
        self._first[subject] = other

    async def run(self) -> None:
        """Consume until cancelled; build the feed again whenever it breaks.

        Raises ConfigurationMismatchError if the consumer at the broker would lose messages of this release.
        """
        async with self._broker.open():
            while True:
                try:
                    await self._consume()
                except FEED_ERRORS as error:
                    metrics.FEED_REBUILDS.labels(self.durable).inc()
                    _log.warning("feed_rebuilt", consumer=self.durable, error=f"{type(error).__name__}: {error}")
                    await asyncio.sleep(_REBUILD_SECONDS)

    async def _consume(self) -> None:
        await self._broker.connected()
        await self._lineage.trusted()
        await self._await_consumer()
        if not await self._floor_check.passes():
            return
        feed = Feed(self._broker, self.stream, self.durable, self._limits.batch_size, self._linger_seconds)
        await feed.open()
        alive = asyncio.create_task(self._extend_ack_wait(feed))
        try:
            with self._attached(feed):
                while True:
                    self._in_work = await feed.batch()
                    await to_the_end(self._process(self._in_work, feed), _DRAIN_SECONDS)
                    self._in_work = ()
        except FEED_ERRORS:
            await self._replace(feed)
            raise
        except BaseException:
            await feed.close()
            raise
        finally:
            alive.cancel()
            self._in_work = ()

    async def catch_up(self) -> None:
        """Return when what the broker has is handled, and in any case soon."""
        if self._feed is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CATCH_UP_SECONDS):
                    await self._feed.catch_up()

    async def _replace(self, feed: Feed) -> None:
        """Keep the lost feed until the next one is lost: what still arrives there is returned to the broker at once."""
        before, self._lost_feed = self._lost_feed, feed
        await feed.retire()
        if before is not None:
            await before.close()

    async def _process(self, messages: Sequence[Msg], feed: Feed) -> None:
        for other in {self._first[one.subject] for one in messages if one.subject in self._first}:
            await other.catch_up()
        await self.batches.process(messages, lambda: feed.current, feed.epoch)

    async def _extend_ack_wait(self, feed: Feed) -> None:
        """Tell the broker again and again that what it has delivered is still being processed, or waits for that."""
        while True:
            await feed.delivered.wait()
            await asyncio.sleep(self._ack_wait_seconds / 3)
            unanswered = [message for message in (*self._in_work, *feed.waiting()) if not message.is_acked]
            if not unanswered:
                feed.delivered.clear()
            for message in unanswered:
                if not message.is_acked:
                    await message.in_progress()

    async def ready(self) -> None:
        """Return if the consumer is there, with every subject that we handle. Raises NotProvisionedError otherwise."""
        if self._waits_for is not None:
            raise self._waits_for

    async def _await_consumer(self) -> None:
        """Wait for the provisioner to make the consumer, or to give it the subjects that this release handles.

        More subjects are fine: a newer release beside us handles them.
        """
        polls = 0
        while True:
            info = await find_consumer(self._broker.jetstream, self.stream, self.durable)
            self._waits_for = self._lacking(info)
            if self._waits_for is None:
                return
            if polls % _AWAIT_LOG_EVERY == 0:
                _log.warning("consumer_awaited", consumer=self.durable, error=str(self._waits_for))
            polls += 1
            await asyncio.sleep(_AWAIT_POLL_SECONDS)

    def _lacking(self, info: ConsumerInfo | None) -> NotProvisionedError | None:
        if info is None or info.config is None:
            return NotProvisionedError(f"the consumer {self.durable} is missing")
        found = info.config
        if lacking := set(self._wanted.filter_subjects or ()) - set(filters_of(found)):
            return NotProvisionedError(f"the consumer {self.durable} lacks {', '.join(sorted(lacking))}")
        differences = consumer_differences(self._wanted, found)
        hold_against(f"consumer {self.durable}", [one for one in differences if one.field != "filter_subjects"])
        self._ack_wait_seconds = found.ack_wait or ACK_WAIT_SECONDS
        return None

    @contextlib.contextmanager
    def _attached(self, feed: Feed) -> Iterator[None]:
        self._feed = feed
        try:
            yield
        finally:
            self._feed = None

    def _begin_anew(self) -> None:
        if self._feed is not None:
            self._feed.lose("the database may be another one")

    def _wake(self) -> None:
        if self._feed is not None:
            self._feed.wake()


class Replays:
    """Component that feeds dead letters through their handler again when an operator asks for it.

    It looks when ``wanted`` is set, and by itself every ``REPLAY_POLL_SECONDS``: the sweep of the relay, which asks
    once a second, stands still while the broker is away.
    """

    name = "replays"

    def __init__(self, consumers: Sequence[StreamConsumer], transactions: Transactions, wanted: asyncio.Event) -> None:
        self._wanted = wanted
        self._batches = {consumer.durable: consumer.batches for consumer in consumers}
        self._engine = transactions.engine
        self._dead_letters = DeadLetters(transactions.producer)

    async def run(self) -> None:
        """Look for requests until cancelled."""
        while True:
            self._wanted.clear()
            try:
                async with single_statements(self._engine) as connection:
                    requested = await self._dead_letters.requested(connection)
                for durable in sorted(requested & self._batches.keys()):
                    while await self._batches[durable].replay_one():
                        pass
            except Exception as error:
                if not is_unavailable(error):
                    raise
                _log.warning("replays_paused", error=f"{type(error).__name__}: {error}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPLAY_POLL_SECONDS):
                    await self._wanted.wait()
