"""Which message is handled by which function."""

from collections.abc import Callable

from contracts.generation import OutputReady, OutputSought
from contracts.storage import DeleteFiles, VerifyInputs
from messaging.consumers import Subscription
from storage.deletions import request_deletion
from storage.handlers import request_verification
from storage.intake import Intake


def subscriptions(outputs: Intake, inputs: Intake, wake_deletions: Callable[[], None]) -> tuple[Subscription, ...]:
    """Everything that storage reads. What is requested has a row with a key of its own: that key is the inbox."""
    return (
        Subscription(OutputReady, request_verification(outputs), inbox=False),
        Subscription(OutputSought, request_verification(outputs), inbox=False),
        Subscription(VerifyInputs, request_verification(inputs), inbox=False),
        Subscription(DeleteFiles, request_deletion(wake_deletions), inbox=False),
    )
