"""Core NATS: immediate, lossy news without outbox, stream or acknowledgement."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as LiveSubscription

from messaging.broker import Broker

T = TypeVar("T", bound=msgspec.Struct)

_log = structlog.get_logger("messaging.live")


async def publish_live(broker: Broker, subject: str, news: msgspec.Struct) -> None:
    """Send ``news`` to whoever listens now; silently to nobody if there is no connection."""
    if broker.client.is_connected:
        await broker.client.publish(subject, msgspec.json.encode(news))


async def subscribe_live(
    broker: Broker, subject: str, payload: type[T], callback: Callable[[str, T], Awaitable[None]]
) -> LiveSubscription:
    """Call ``callback(subject, news)`` for what arrives from now on; survives reconnects.

    What does not parse is logged and dropped. Returns nats-py's subscription, whose ``unsubscribe()`` ends it.
    """
    decoder = msgspec.json.Decoder(payload)

    async def deliver(message: Msg) -> None:
        try:
            news = decoder.decode(message.data)
        except msgspec.MsgspecError as error:
            _log.warning("live news does not parse", subject=message.subject, error=str(error))
            return
        await callback(message.subject, news)

    subscription: LiveSubscription = await broker.client.subscribe(subject, cb=deliver)
    return subscription
