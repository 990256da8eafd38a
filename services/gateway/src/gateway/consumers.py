"""Which message is handled by what: all of them by the one projector, so that a batch keeps its order."""

from gateway.handlers import REACTIONS, Notify, Projector
from messaging.consumers import Subscription


def subscriptions(notify: Notify) -> tuple[Subscription, ...]:
    """Everything that the gateway reads."""
    project = Projector(notify).project
    return tuple(Subscription(message, project) for message in REACTIONS)
