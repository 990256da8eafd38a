"""Which message is handled by what.

Most need no inbox: the order's own state makes every repetition harmless. Two need one, because a message that is
replayed days later could meet a state that it was not meant for: a cancel that came too late while a file was verified
would cancel the retry after that file was rejected.
"""

from contracts.billing import CreditsReserved
from contracts.generation import CancelGeneration
from contracts.storage import AssetRejected, AssetStored, InputsRejected, InputsVerified, OutputMissing
from generation.handlers import Handlers
from messaging.consumers import Subscription


def subscriptions(handlers: Handlers) -> tuple[Subscription, ...]:
    """Everything that generation reads."""
    return (
        Subscription(CreditsReserved, handlers.enqueue, inbox=False),
        Subscription(CancelGeneration, handlers.cancel),
        Subscription(InputsVerified, handlers.inputs_verified, inbox=False),
        Subscription(InputsRejected, handlers.inputs_rejected, inbox=False),
        Subscription(AssetStored, handlers.asset_stored, inbox=False),
        Subscription(AssetRejected, handlers.asset_rejected),
        Subscription(OutputMissing, handlers.output_missing, inbox=False),
    )
