"""Which message is handled by what: all of them by the one projector, so that a batch keeps its order."""

from typing import Final

from contracts.message import Message
from contracts.registry import stream_of
from gateway.handlers import REACTIONS, Notify, Projector
from messaging.consumers import Subscription

LINGER_SECONDS: Final = 0.05
"""A generation's progress and a balance come in many small steps, and no user sees a twentieth of a second. Who waits
for a verdict hears it from ``live_news``; and storage's word must be here before the completion that comes of it."""

_LINGERING: Final = ("GENERATION", "BILLING")


def subscriptions(notify: Notify) -> tuple[Subscription, ...]:
    """Everything that the gateway reads."""
    project = Projector(notify).project
    return tuple(Subscription(message, project, linger_seconds=_linger_seconds(message)) for message in REACTIONS)


def _linger_seconds(message: type[Message]) -> float:
    return LINGER_SECONDS if stream_of(message.subject) in _LINGERING else 0.0
