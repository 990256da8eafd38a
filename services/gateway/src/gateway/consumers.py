"""The subscriptions: one projector handles every message, so that a batch keeps its order."""

from typing import Final

from contracts.generation import GenerationCompleted
from contracts.message import Message
from contracts.registry import stream_of
from contracts.storage import AssetStored
from gateway.handlers import REACTIONS, Notify, Projector
from messaging.consumers import Subscription

LINGER_SECONDS: Final = 0.2
"""A generation and a balance change in many small steps, and no user notices a fifth of a second.

A request that waits for its verdict hears it through ``live_events``. What changes a payment does not linger: a user
comes back from the checkout and looks.
"""

_LINGERING: Final = ("GENERATION", "BILLING", "STORAGE")
_AFTER: Final[dict[type[Message], type[Message]]] = {GenerationCompleted: AssetStored}
"""A completion is deferred until its file is known, so what storage has said is handled before it."""


def subscriptions(notify: Notify) -> tuple[Subscription, ...]:
    """Every message that the gateway consumes."""
    project = Projector(notify).project
    return tuple(
        Subscription(message, project, linger_seconds=_linger_seconds(message), after=_AFTER.get(message))
        for message in REACTIONS
    )


def _linger_seconds(message: type[Message]) -> float:
    return LINGER_SECONDS if stream_of(message.subject) in _LINGERING else 0.0
