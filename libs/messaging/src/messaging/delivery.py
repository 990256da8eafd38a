"""How far a message has come on its way to one reader: for a command that says what its effect is by now."""

import asyncio
from typing import Final, Literal
from uuid import UUID

import nats.errors
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.message import Message, Service
from contracts.permissions import durable_name
from contracts.registry import stream_of
from messaging.broker import Broker
from messaging.database import DATABASE_ERRORS, single_statements
from messaging.errors import BrokerUnavailableError
from messaging.outbox import Outbox

Delivery = Literal["waiting", "published", "handled"]
"""``waiting``: no relay has published it. ``handled``: the reader has committed its effect, and said so."""

_POLL_SECONDS: Final = 0.05
_NOT_KNOWN: Final = (TimeoutError, nats.errors.Error, BrokerUnavailableError, *DATABASE_ERRORS)


class Follower:
    """Follows messages of a service through its outbox and, if the contracts let it ask (``FOLLOWED``), the broker."""

    def __init__(self, service: Service, engine: AsyncEngine, broker: Broker | None) -> None:
        self._engine = engine
        self._broker = broker
        self._outbox = Outbox(service)

    async def follow(self, message: type[Message], correlation_id: UUID, reader: Service, seconds: float) -> Delivery:
        """Wait until ``reader`` has handled the message, for at most ``seconds``; returns how far it is known to be.

        Without a broker, ``published`` is the most that can be known.
        """
        known: Delivery = "waiting"
        try:
            async with asyncio.timeout(seconds):
                await self._published(message, correlation_id)
                known = "published"
                if self._broker is not None:
                    async with self._broker.open():
                        await self._handled(self._broker, message, correlation_id, reader)
                    known = "handled"
        except _NOT_KNOWN:
            return known
        return known

    async def _published(self, message: type[Message], correlation_id: UUID) -> int:
        """The sequence under which the message was published, as soon as it is."""
        while True:
            async with single_statements(self._engine) as connection:
                sequence = await self._outbox.published_sequence(connection, correlation_id, message.subject)
            if sequence is not None:
                return sequence
            await asyncio.sleep(_POLL_SECONDS)

    async def _handled(self, broker: Broker, message: type[Message], correlation_id: UUID, reader: Service) -> None:
        stream = stream_of(message.subject)
        durable = durable_name(reader, stream)
        # Asked again each time: a broker that forgot gets the message again, under another sequence.
        while (sequence := await self._published(message, correlation_id)) > 0:
            floor = (await broker.jetstream.consumer_info(stream, durable)).ack_floor
            if floor is not None and floor.stream_seq >= sequence:
                return
            await asyncio.sleep(_POLL_SECONDS)
