"""Which message is handled by what: all of them by the one projector, so that a batch keeps its order."""

from typing import Final

from contracts.message import Message
from contracts.registry import stream_of
from gateway.handlers import REACTIONS, Notify, Projector
from messaging.consumers import Subscription

GENERATION_LINGER_SECONDS: Final = 0.05
"""A generation's progress comes in many small steps, and no user sees a difference of a twentieth of a second."""


def subscriptions(notify: Notify) -> tuple[Subscription, ...]:
    """Everything that the gateway reads."""
    project = Projector(notify).project
    return tuple(Subscription(message, project, linger_seconds=_linger_seconds(message)) for message in REACTIONS)


def _linger_seconds(message: type[Message]) -> float:
    return GENERATION_LINGER_SECONDS if stream_of(message.subject) == "GENERATION" else 0.0
