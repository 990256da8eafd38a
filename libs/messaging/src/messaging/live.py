"""Core NATS: immediate, lossy messages without outbox, stream or acknowledgement."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as LiveSubscription

from messaging.broker import Broker

T = TypeVar("T", bound=msgspec.Struct)

_log = structlog.get_logger("messaging.live")


async def publish_live(broker: Broker, subject: str, payload: msgspec.Struct) -> None:
    """Send ``payload`` to those who listen now. Without a connection it is lost."""
    if broker.client.is_connected:
        await broker.client.publish(subject, msgspec.json.encode(payload))


async def subscribe_live(
    broker: Broker, subject: str, kind: type[T], callback: Callable[[str, T], Awaitable[None]]
) -> LiveSubscription:
    """Call ``callback(subject, payload)`` for each ``kind`` that arrives from now on; survives reconnects.

    What does not parse is logged and dropped. Returns nats-py's subscription, whose ``unsubscribe()`` ends it.
    """
    decoder = msgspec.json.Decoder(kind)

    async def deliver(message: Msg) -> None:
        try:
            payload = decoder.decode(message.data)
        except msgspec.MsgspecError as error:
            _log.warning("live_message_unreadable", subject=message.subject, error=str(error))
            return
        await callback(message.subject, payload)

    subscription: LiveSubscription = await broker.client.subscribe(subject, cb=deliver)
    return subscription
