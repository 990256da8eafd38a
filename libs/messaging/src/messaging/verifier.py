"""Which message a stream holds under one sequence, without the right to read the stream.

Getting a message by its sequence would show a service what others send to each other. Instead each service has, for
each stream, a second consumer with the filter of what it may know. Reset to a sequence, it gives the message that
stands there, or a later one if that place is empty or holds what is not the service's business.

The replicas of a service share the consumer, so they take turns under a lock in their database. A replica that was
frozen past its lock may still disturb one answer: that a message is missing is believed when two answers say so.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from nats.aio.msg import Msg

from contracts import headers
from contracts.message import Service
from contracts.permissions import API_PREFIX, verifier_name
from messaging.broker import Broker
from messaging.errors import BrokerUnavailableError, NotProvisionedError
from messaging.topology import find_consumer

_ANSWER_SECONDS: Final = 5.0
_PULL: Final = json.dumps({"batch": 1, "no_wait": True}).encode()
_NO_MESSAGES: Final = "404"
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as its stream holds it. A message that none of us published may lack id and producer."""

    sequence: int
    subject: str
    message_id: str | None
    producer: str | None


class Verifier:
    """Looks into the streams of one service. The caller holds the lock that keeps other replicas away."""

    def __init__(self, service: Service, broker: Broker) -> None:
        self._service = service
        self._broker = broker

    async def expect(self, stream: str) -> None:
        """Return if the consumer is there. Raises NotProvisionedError; without it, each look would time out."""
        name = verifier_name(self._service, stream)
        if await find_consumer(self._broker.jetstream, stream, name) is None:
            raise NotProvisionedError(f"the consumer {name} is missing")

    async def message_id(self, stream: str, sequence: int) -> str | None:
        """The id of the message under ``sequence``; None if none is there, or none that this service may know.

        Raises TimeoutError if the broker does not answer, or not twice alike.
        """
        found = await self._next(stream, sequence)
        return found.message_id if found is not None and found.sequence == sequence else None

    async def first_from(self, stream: str, subjects: Collection[str], sequence: int) -> StoredMessage | None:
        """The first message on one of ``subjects`` at or after ``sequence``, or None. Raises like the above."""
        while (found := await self._next(stream, sequence)) is not None and found.subject not in subjects:
            sequence = found.sequence + 1
        return found

    async def _next(self, stream: str, sequence: int) -> StoredMessage | None:
        """The first message at or after ``sequence``: what stands there, or what two answers say."""
        previous: StoredMessage | str | None = "not asked yet"
        for _ in range(_TRIES):
            found = await self._ask(stream, sequence)
            if found == previous or (found is not None and found.sequence == sequence):
                return found
            previous = found
        raise TimeoutError(f"two processes look into {stream} at once")

    async def _ask(self, stream: str, sequence: int) -> StoredMessage | None:
        name = verifier_name(self._service, stream)
        await self._broker.jetstream.reset_consumer(stream, name, seq=sequence)
        message = await self._pull(f"{API_PREFIX}.CONSUMER.MSG.NEXT.{stream}.{name}")
        values = message.headers or {}
        if not message.reply:  # The broker itself speaks.
            if values.get("Status") == _NO_MESSAGES:
                return None
            raise BrokerUnavailableError(f"the consumer {name} does not answer: {values}")
        found = message.metadata.sequence.stream
        return StoredMessage(found, message.subject, values.get(headers.MESSAGE_ID), values.get(headers.PRODUCER))

    async def _pull(self, subject: str) -> Msg:
        client = self._broker.client
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox, max_msgs=1)
        try:
            await client.publish(subject, _PULL, reply=inbox)
            return await subscription.next_msg(_ANSWER_SECONDS)
        finally:
            await subscription.unsubscribe()
