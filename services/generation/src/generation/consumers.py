"""Which message is handled by what.

Without an inbox where the order's own state makes a repetition harmless for ever; with one where a message replayed
days later would find a state that it was not meant for (a cancel that lost against a file that was then rejected).
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
