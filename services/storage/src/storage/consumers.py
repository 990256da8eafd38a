"""Which message is handled by which function."""

from collections.abc import Callable

from contracts.generation import OutputReady, OutputSought
from contracts.storage import VerifyInputs
from messaging.consumers import Subscription
from storage.handlers import request_verification


def subscriptions(wake_outputs: Callable[[], None], wake_inputs: Callable[[], None]) -> tuple[Subscription, ...]:
    """Everything that storage reads. A verification has the id of its message as key: that key is the inbox."""
    return (
        Subscription(OutputReady, request_verification(wake_outputs), inbox=False),
        Subscription(OutputSought, request_verification(wake_outputs), inbox=False),
        Subscription(VerifyInputs, request_verification(wake_inputs), inbox=False),
    )
