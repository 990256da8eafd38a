"""Questions to another service while a user waits: one answer, or none in time. See :mod:`contracts.queries`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg

from contracts.queries import Query
from messaging.broker import Broker
from messaging.errors import BrokerUnavailableError, QueryUnansweredError

T = TypeVar("T")

ANSWER_SECONDS: Final = 3.0
"""How long an asker waits. Its user may try again."""
MOST_WAITING: Final = 100
"""Questions of one kind that wait here. More are dropped: their askers have waited too long anyway."""

Answer = Callable[[Any], Awaitable[Any]]

_log = structlog.get_logger("messaging.queries")


async def ask(broker: Broker, query: Query, decoder: msgspec.json.Decoder[T]) -> T:
    """Ask the service that answers such queries. Raises QueryUnansweredError without an answer in time."""
    try:
        message = await broker.client.request(query.subject, msgspec.json.encode(query), timeout=ANSWER_SECONDS)
        return decoder.decode(message.data)
    except (nats.errors.Error, OSError, BrokerUnavailableError, msgspec.MsgspecError) as error:
        raise QueryUnansweredError(query.responder) from error


class Responder:
    """Answers queries until it is cancelled. Each question reaches one replica."""

    name = "responder"

    def __init__(self, broker: Broker, answers: Mapping[type[Query], Answer]) -> None:
        self._broker = broker
        self._answers = answers

    async def run(self) -> None:
        """Listen, and go on after every reconnect."""
        async with self._broker.open():
            for kind, answer in self._answers.items():
                reply = partial(_reply, msgspec.json.Decoder(kind), answer)
                await self._broker.client.subscribe(
                    kind.subject, queue=kind.responder, cb=reply, pending_msgs_limit=MOST_WAITING
                )
            await asyncio.Event().wait()


async def _reply(decoder: msgspec.json.Decoder[Query], answer: Answer, message: Msg) -> None:
    """A question that cannot be answered is logged, and its asker hears nothing."""
    try:
        found = await answer(decoder.decode(message.data))
        await message.respond(msgspec.json.encode(found))
    except Exception:  # noqa: BLE001 - whatever it is, other questions are answered
        _log.exception("query_failed", subject=message.subject)
