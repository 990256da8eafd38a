"""One batch of deliveries: one transaction for all; where one fails, halves of it, down to the poison message alone.

Three things may go wrong, and who is to blame decides what follows (``messaging.database``):

- The database is away: the same batch is repeated until it is back. No message is blamed.
- A row is locked, or the work takes too long (``is_contended``): the batch is halved until the message that waits
  stands alone. That one is delivered again later, however often it takes, and the others go on.
- Anything else is the message's own failure: halved, counted, and after ``max_deliveries`` dead-lettered.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar
from uuid import NAMESPACE_URL, UUID

import msgspec
import structlog
from nats.aio.msg import Msg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts import headers
from contracts.message import Message, Service
from messaging import metrics
from messaging.database import is_contended, is_unavailable
from messaging.dead_letters import DeadLetter, DeadLetters
from messaging.errors import FeedLostError
from messaging.failpoints import failpoint
from messaging.ids import derived_id, new_id, parsed_id, uuid_or_none
from messaging.inbox import Deferral, Inbox
from messaging.positions import Checkpoints, Position
from messaging.received import Received
from messaging.tracing import consumer_span
from messaging.transaction import Transaction, Transactions
from messaging.verifier import StoredMessage
from service_runtime.backoff import Backoff

_log = structlog.get_logger("messaging.consumers")

T = TypeVar("T")
Handler = Callable[[Transaction, Sequence[Received[Any]]], Awaitable[None]]

EARLY_DEADLINE: Final = timedelta(hours=1)
"""A message that is still early after this time is dead-lettered: what it waits for is not coming."""

UNHANDLED_DELIVERIES: Final = 75
"""So often a message is offered that no process has a handler for: with the waits between, for eleven minutes."""

_SOON: Final = timedelta(minutes=1)
_EARLY: Final = Backoff(first=timedelta(seconds=0.1), longest=timedelta(seconds=1), jitter=0)
_LONG_EARLY: Final = Backoff(first=timedelta(seconds=0.1), longest=timedelta(seconds=10), jitter=0)
"""Messages are early one by one, so that there is no crowd for jitter to spread."""
_RETRY: Final = Backoff(first=timedelta(seconds=0.25), longest=timedelta(minutes=1), factor=4, jitter=0.2)
_CONTENDED: Final = Backoff(first=timedelta(seconds=0.25), longest=timedelta(seconds=10), jitter=0.2)
"""A locked row is free again within seconds, as a rule: its message is not kept waiting for minutes."""
_MAX_DELAYED: Final = 10_000
_RETURN_SECONDS: Final = 15.0
"""What was sent back comes again so soon after its pause, or another process has it."""
_BRIEF_LOCK_TIMEOUT: Final = text("SET LOCAL lock_timeout = '200ms'")
"""While some messages wait for locks: the search for them, and their next tries, must not hold up the others."""
_UNHANDLED: Final = Backoff(first=timedelta(seconds=0.1), longest=timedelta(seconds=10), factor=1.5, jitter=0)
_OUTAGE: Final = Backoff(first=timedelta(seconds=0.1), longest=timedelta(seconds=5))


@dataclass(frozen=True, slots=True)
class Subscription:
    """Deliver messages of ``message_type`` to ``handler``.

    The handler is called once for each batch with the messages that were not received before, sorted by arrival, and
    raises to refuse them. Subscriptions that share a handler share the call, so that a batch can take its locks in one
    order whatever is in it. ``inbox=False`` leaves out the inbox where the effect has a key of its own that makes a
    repeated message harmless. ``linger_seconds`` is how long a message may wait at the broker for others to share its
    transaction: so far apart are the batches. Of the subscriptions on one stream, the shortest counts. ``after`` is a
    message of another stream that mostly comes before this one: what is there is handled first, without lingering.
    ``foreign`` delivers a message even if it names another producer than the contracts; otherwise it is dead-lettered.
    """

    message_type: type[Message]
    handler: Handler
    inbox: bool = True
    linger_seconds: float = 0.0
    after: type[Message] | None = None
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """A decoded message, the subscription it belongs to, and the means to answer the broker."""

    message: Msg
    received: Received[Any]
    subscription: Subscription
    sequence: int


@dataclass(slots=True)
class _Outcome:
    duplicates: set[UUID] = field(default_factory=set)
    deferrals: dict[UUID, Deferral] = field(default_factory=dict)
    given_up: set[UUID] = field(default_factory=set)


class UndecodableError(Exception):
    """A message whose headers or payload are not what the contracts say."""


class UnhandledError(UndecodableError):
    """A message of a subject that this process has no handler for; a newer process beside it may have one."""


class Decoder:
    """Turns what the broker delivers into :class:`Received` for the subscriptions of one consumer."""

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        self._subscriptions = {subscription.message_type.subject: subscription for subscription in subscriptions}
        self._payloads = {subject: msgspec.json.Decoder(s.message_type) for subject, s in self._subscriptions.items()}

    def decode(
        self, subject: str, values: Mapping[str, str], payload: bytes, deliveries: int
    ) -> tuple[Received[Any], Subscription]:
        """Raises UndecodableError, naming what is wrong."""
        subscription = self._subscriptions.get(subject)
        if subscription is None:
            raise UnhandledError(f"this consumer does not handle {subject}")
        try:
            received = Received(
                message_id=parsed_id(values[headers.MESSAGE_ID]),
                subject=subject,
                payload=self._payloads[subject].decode(payload),
                correlation_id=parsed_id(values[headers.CORRELATION_ID]),
                causation_id=parsed_id(values[headers.CAUSATION_ID]) if headers.CAUSATION_ID in values else None,
                occurred_at=datetime.fromisoformat(values[headers.OCCURRED_AT]),
                traceparent=values.get(headers.TRACEPARENT),
                deliveries=deliveries,
                producer=values.get(headers.PRODUCER),
            )
        except KeyError as error:
            raise UndecodableError(f"header {error} is missing") from error
        except (ValueError, msgspec.MsgspecError) as error:
            raise UndecodableError(str(error)) from error
        if received.producer not in subscription.message_type.producers and not subscription.foreign:
            # The broker lets only its producer publish a subject, so that another name is a forged one.
            raise UndecodableError(f"{subject} is not a message of {received.producer}")
        return received, subscription


class Batches:
    """Applies the messages of one durable consumer and answers the broker for each."""

    def __init__(
        self,
        service: Service,
        stream: str,
        durable: str,
        subscriptions: Sequence[Subscription],
        transactions: Transactions,
        max_deliveries: int,
    ) -> None:
        self.service = service
        self.durable = durable
        self.subjects = [subscription.message_type.subject for subscription in subscriptions]
        self._stream = stream
        self._replica = new_id()
        self._transactions = transactions
        self._max_deliveries = max_deliveries
        self._decoder = Decoder(subscriptions)
        self._inbox = Inbox(service, durable)
        self._dead_letters = DeadLetters(service)
        self.checkpoints = Checkpoints(durable)
        self._delayed: dict[UUID, float] = {}
        """Until when each message may come again that was sent back because of a lock. It is tried alone then."""

    async def process(self, messages: Sequence[Msg], current: Callable[[], bool], epoch: int) -> None:
        """Handle ``messages`` to the end: each is acked, sent back with a delay, or dead-lettered and acked.

        ``current`` says whether the broker still is the one that delivered them. While the database is away this
        waits; it raises FeedLostError if the connection to the broker is rebuilt meanwhile.
        """
        deliveries: list[Delivery] = []
        for message in messages:
            try:
                deliveries.append(self._delivery(message))
            except UnhandledError as error:
                await self._pass_on(message, error, current)
            except UndecodableError as error:
                await self._retry_while_unavailable(partial(self._dead_letter_undecodable, message, error), current)
                await _answer_ack(message, current)
        if deliveries:
            metrics.batch_size(self.durable).observe(len(deliveries))
            self._delayed = {one: until for one, until in self._delayed.items() if until > time.monotonic()}
            alone = [one for one in deliveries if one.received.message_id in self._delayed]
            together = [one for one in deliveries if one.received.message_id not in self._delayed]
            if together:
                await self._apply(together, current, epoch)
            for delivery in alone:
                await self._apply([delivery], current, epoch)

    async def _pass_on(self, message: Msg, error: UnhandledError, current: Callable[[], bool]) -> None:
        """During a rolling upgrade a newer process shares the consumer: let it have the message, for some minutes."""
        deliveries = message.metadata.num_delivered
        if deliveries < UNHANDLED_DELIVERIES:
            await message.nak(_UNHANDLED.seconds(deliveries))
            return
        await self._retry_while_unavailable(partial(self._dead_letter_undecodable, message, error), current)
        await _answer_ack(message, current)

    async def replay_one(self) -> bool:
        """Handle one dead letter that an operator wants replayed; False if there is none (left)."""
        letter: DeadLetter | None = None
        try:
            async with self._transactions.begin() as tx:
                letter = await self._dead_letters.lock_requested(tx.connection, self.durable)
                if letter is None:
                    return False
                received, subscription = self._decoder.decode(letter.subject, letter.headers, letter.payload, 1)
                fresh = not subscription.inbox or await self._inbox.add_new(tx.connection, [received.message_id])
                if fresh:
                    with consumer_span(self.durable, [received]):
                        await subscription.handler(tx, [received])
                if tx.deferred:
                    await self._inbox.remove(tx.connection, list(tx.deferred))
                    reason = f"still early: {tx.deferred[received.message_id]}"
                    await self._dead_letters.mark_replay_failed(tx.connection, letter, reason)
                else:
                    await self._dead_letters.mark_replayed(tx.connection, letter)
        except Exception as error:
            if letter is None or (is_unavailable(error) and not is_contended(error)):
                raise
            _log.exception("replay_failed", message_id=str(letter.message_id), consumer=self.durable)
            async with self._transactions.begin() as tx:
                await self._dead_letters.mark_replay_failed(tx.connection, letter, _describe(error))
        return True

    async def is_known(self, connection: AsyncConnection, stored: StoredMessage) -> bool:
        """Whether a message of the stream was received or given up on here."""
        message_id = self._id_of(stored.message_id, stored.sequence)
        return await self._inbox.is_known(connection, message_id)

    def _delivery(self, message: Msg) -> Delivery:
        metadata = message.metadata
        if metadata.num_delivered > 1:
            metrics.REDELIVERIES.labels(self.durable).inc()
        received, subscription = self._decoder.decode(
            message.subject, message.headers or {}, message.data, metadata.num_delivered
        )
        return Delivery(message, received, subscription, metadata.sequence.stream)

    async def _apply(
        self, deliveries: Sequence[Delivery], current: Callable[[], bool], epoch: int, *, brief: bool = False
    ) -> None:
        try:
            outcome = await self._retry_while_unavailable(
                lambda: self._transact(deliveries, epoch, brief=brief or bool(self._delayed)), current, splits=True
            )
        except FeedLostError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a handler raises: the poison message must be found
            failure = error
        else:
            for delivery in deliveries:
                self._delayed.pop(delivery.received.message_id, None)
            await self._answer(deliveries, outcome, current)
            return
        contended = is_contended(failure)
        # Outside of the except block, or the errors of all halves would be chained to one another.
        if len(deliveries) == 1:
            if contended:
                await self._delay(deliveries[0], failure)
            else:
                await self._fail(deliveries[0], failure, current)
            return
        middle = len(deliveries) // 2
        await self._apply(deliveries[:middle], current, epoch, brief=brief or contended)
        await self._apply(deliveries[middle:], current, epoch, brief=brief or contended)

    async def _transact(self, deliveries: Sequence[Delivery], epoch: int, *, brief: bool) -> _Outcome:
        outcome = _Outcome()
        with consumer_span(self.durable, [delivery.received for delivery in deliveries]):
            async with self._transactions.begin() as tx:
                if brief:
                    await tx.connection.execute(_BRIEF_LOCK_TIMEOUT)
                highest = max(deliveries, key=lambda delivery: delivery.sequence)
                position = self.checkpoints.advance(self._stream, highest.sequence, highest.received.message_id, epoch)
                fresh = await self._fresh(tx, deliveries, position, outcome)
                for handler, messages in _by_handler(fresh):
                    with metrics.handler_seconds(self.service, messages[0].subject).time():
                        await handler(tx, messages)
                if tx.deferred:
                    await self._defer(tx, fresh, outcome)
                again = [d.received.message_id for d in deliveries if d.received.deliveries > 1]
                done = [message_id for message_id in again if message_id not in outcome.deferrals]
                if done:
                    await self._inbox.clear_attempts(tx.connection, done)
                failpoint("consumer.before_commit")
        failpoint("consumer.after_commit")
        return outcome

    async def _fresh(
        self, tx: Transaction, deliveries: Sequence[Delivery], position: Position, outcome: _Outcome
    ) -> list[Delivery]:
        """The deliveries whose messages were not received before, each message once."""
        guarded = {d.received.message_id for d in deliveries if d.subscription.inbox}
        if guarded:
            new = await self._inbox.receive(tx.connection, list(guarded), position)
        else:
            new = set()
            tx.position = position
        outcome.duplicates = guarded - new
        fresh: dict[UUID, Delivery] = {}
        for delivery in deliveries:
            if delivery.received.message_id not in outcome.duplicates:
                fresh.setdefault(delivery.received.message_id, delivery)
        return list(fresh.values())

    async def _defer(self, tx: Transaction, fresh: Sequence[Delivery], outcome: _Outcome) -> None:
        """Take back the receipt of early messages; give up on those that have been early for too long."""
        early = [delivery for delivery in fresh if delivery.received.message_id in tx.deferred]
        guarded = [delivery.received.message_id for delivery in early if delivery.subscription.inbox]
        if guarded:
            await self._inbox.remove(tx.connection, guarded)
        outcome.deferrals = await self._inbox.record_deferrals(tx.connection, tx.deferred)
        for delivery in early:
            message_id = delivery.received.message_id
            if outcome.deferrals[message_id].waited > EARLY_DEADLINE:
                letter = self._letter(delivery, "early", f"still early: {tx.deferred[message_id]}")
                await self._dead_letters.add(tx.connection, letter)
                await self._inbox.clear_attempts(tx.connection, [message_id])
                outcome.given_up.add(message_id)

    async def _answer(self, deliveries: Sequence[Delivery], outcome: _Outcome, current: Callable[[], bool]) -> None:
        for delivery in deliveries:
            message_id = delivery.received.message_id
            deferral = outcome.deferrals.get(message_id)
            if message_id in outcome.given_up:
                self._count_dead(delivery.received.subject, "early", message_id)
                await _answer_ack(delivery.message, current)
            elif deferral is not None:
                metrics.DEFERRED.labels(self.durable).inc()
                self._count(delivery, "deferred")
                await delivery.message.nak(_deferral_seconds(deferral))
            else:
                self._count(delivery, "duplicate" if message_id in outcome.duplicates else "handled")
                await _answer_ack(delivery.message, current)
        failpoint("consumer.after_ack")

    async def _delay(self, delivery: Delivery, error: Exception) -> None:
        """Send a message back whose rows are locked, or whose work the server had no time for. Nothing is counted."""
        seconds = _CONTENDED.seconds(delivery.received.deliveries, delivery.received.message_id)
        _log.warning(
            "message_delayed",
            consumer=self.durable,
            subject=delivery.received.subject,
            message_id=str(delivery.received.message_id),
            error=_describe(error),
            seconds=seconds,
        )
        if len(self._delayed) < _MAX_DELAYED:
            self._delayed[delivery.received.message_id] = time.monotonic() + seconds + _RETURN_SECONDS
        self._count(delivery, "delayed")
        await delivery.message.nak(seconds)

    async def _fail(self, delivery: Delivery, error: Exception, current: Callable[[], bool]) -> None:
        """Count a failure of one message that stands alone; dead-letter it when there were enough."""
        self._delayed.pop(delivery.received.message_id, None)
        _log.error(
            "message_failed",
            consumer=self.durable,
            subject=delivery.received.subject,
            message_id=str(delivery.received.message_id),
            exc_info=error,
        )
        failures = await self._retry_while_unavailable(lambda: self._record_failure(delivery, error), current)
        if failures >= self._max_deliveries:
            self._count_dead(delivery.received.subject, "poison", delivery.received.message_id)
            await _answer_ack(delivery.message, current)
        else:
            self._count(delivery, "failed")
            await delivery.message.nak(_retry_seconds(failures, delivery.received.message_id))

    async def _record_failure(self, delivery: Delivery, error: Exception) -> int:
        message_id = delivery.received.message_id
        async with self._transactions.begin() as tx:
            failures = await self._inbox.record_failure(tx.connection, message_id, _describe(error))
            if failures >= self._max_deliveries:
                await self._dead_letters.add(tx.connection, self._letter(delivery, "poison", _describe(error)))
                await self._inbox.clear_attempts(tx.connection, [message_id])
            failpoint("consumer.before_dead_letter_commit")
        return failures

    async def _dead_letter_undecodable(self, message: Msg, error: UndecodableError) -> None:
        values = message.headers or {}
        message_id = self._id_of(values.get(headers.MESSAGE_ID), message.metadata.sequence.stream)
        letter = DeadLetter(
            consumer=self.durable,
            message_id=message_id,
            subject=message.subject,
            stream=self._stream,
            payload=message.data,
            headers=values,
            correlation_id=uuid_or_none(values.get(headers.CORRELATION_ID)),
            reason="undecodable",
            error=str(error),
            deliveries=message.metadata.num_delivered,
        )
        async with self._transactions.begin() as tx:
            await self._dead_letters.add(tx.connection, letter)
        self._count_dead(message.subject, "undecodable", message_id)

    def _id_of(self, named: str | None, sequence: int) -> UUID:
        """The id of a message, or one made of its place for a message without one."""
        return uuid_or_none(named) or derived_id(NAMESPACE_URL, f"{self._stream}/{sequence}")

    def _letter(self, delivery: Delivery, reason: str, error: str) -> DeadLetter:
        return DeadLetter(
            consumer=self.durable,
            message_id=delivery.received.message_id,
            subject=delivery.received.subject,
            stream=self._stream,
            payload=delivery.message.data,
            headers=delivery.message.headers or {},
            correlation_id=delivery.received.correlation_id,
            reason=reason,
            error=error,
            deliveries=delivery.received.deliveries,
        )

    async def _retry_while_unavailable(
        self, work: Callable[[], Awaitable[T]], current: Callable[[], bool], *, splits: bool = False
    ) -> T:
        """Repeat ``work`` while the database is away. An outage is not the message's failure, so it is not counted.

        With ``splits``, contention is raised at once: the caller has smaller work to try.
        """
        failures = 0
        while True:
            try:
                return await work()
            except Exception as error:
                if not is_unavailable(error) or (splits and is_contended(error)):
                    raise
                if not current():
                    raise FeedLostError("the connection was rebuilt while the database was away") from error
                failures += 1
                seconds = _OUTAGE.seconds(failures, self._replica)
                _log.warning("database_unavailable", consumer=self.durable, error=_describe(error), seconds=seconds)
            await asyncio.sleep(seconds)

    def _count(self, delivery: Delivery, outcome: str) -> None:
        metrics.consumed(self.service, delivery.received.subject, outcome).inc()

    def _count_dead(self, subject: str, reason: str, message_id: UUID) -> None:
        _log.error("message_dead_lettered", consumer=self.durable, message_id=str(message_id), reason=reason)
        metrics.CONSUMED.labels(self.service, subject, "dead").inc()
        metrics.DEAD_LETTERS.labels(self.service, subject, reason).inc()


async def _answer_ack(message: Msg, current: Callable[[], bool]) -> None:
    """Ack, but only to the broker that delivered the message.

    A broker that was rolled back may use the same sequence for another message, which a late ack would swallow. Sending
    the message back is safe instead: the redelivery meets the inbox.
    """
    if current():
        await message.ack()
    else:
        await message.nak()


def _by_handler(deliveries: Sequence[Delivery]) -> list[tuple[Handler, list[Received[Any]]]]:
    groups: dict[Handler, list[Received[Any]]] = {}
    for delivery in deliveries:
        groups.setdefault(delivery.subscription.handler, []).append(delivery.received)
    return list(groups.items())


def _deferral_seconds(deferral: Deferral) -> float:
    """Twice as long each time, but at most a second in the first minute: a chain of early messages moves by one link
    per delivery, so that a long pause would be paid once for each link."""
    backoff = _LONG_EARLY if deferral.waited > _SOON else _EARLY
    return backoff.seconds(deferral.deferrals)


def _retry_seconds(failures: int, message_id: UUID) -> float:
    return _RETRY.seconds(failures, message_id)


def _describe(error: BaseException) -> str:
    # Without the one character that the database refuses.
    return f"{type(error).__name__}: {error}"[:2000].replace("\0", "\N{REPLACEMENT CHARACTER}")
