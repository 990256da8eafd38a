"""Which message is handled by what."""

from collections.abc import Callable

from contracts.generation import OutputReady, OutputSought
from contracts.storage import VerifyInputs
from messaging.consumers import Subscription
from storage import handlers


def subscriptions(wake: Callable[[], None]) -> tuple[Subscription, ...]:
    """Everything that storage reads. The row of a question has the message's id as its key: that key is the inbox."""
    ask = handlers.ask(wake)
    return (
        Subscription(OutputReady, ask, inbox=False),
        Subscription(OutputSought, ask, inbox=False),
        Subscription(VerifyInputs, ask, inbox=False),
    )
