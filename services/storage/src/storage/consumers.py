"""Which message is handled by what."""

from collections.abc import Callable

from contracts.generation import OutputReady, OutputSought
from contracts.storage import VerifyInputs
from messaging.consumers import Subscription
from storage import handlers


def subscriptions(outputs_due: Callable[[], None], inputs_due: Callable[[], None]) -> tuple[Subscription, ...]:
    """Everything that storage reads. The row of a question has the message's id as its key: that key is the inbox."""
    return (
        Subscription(OutputReady, handlers.ask(outputs_due), inbox=False),
        Subscription(OutputSought, handlers.ask(outputs_due), inbox=False),
        Subscription(VerifyInputs, handlers.ask(inputs_due), inbox=False),
    )
