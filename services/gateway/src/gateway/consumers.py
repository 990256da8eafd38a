"""Which message is handled by what."""

from contracts.billing import (
    CreditsCaptured,
    CreditsClawedBack,
    CreditsExpired,
    CreditsGranted,
    CreditsRefused,
    CreditsReleased,
    CreditsReserved,
)
from contracts.generation import (
    AttemptFailed,
    GenerationCancelled,
    GenerationCancelling,
    GenerationCompleted,
    GenerationDispatched,
    GenerationFailed,
    GenerationQueued,
    GenerationStarted,
    OutputReady,
)
from contracts.payments import PaymentChanged, PaymentRefused
from contracts.storage import AssetStored
from gateway import handlers
from gateway.handlers import Notify, Projector
from messaging.consumers import Subscription


def subscriptions(notify: Notify) -> tuple[Subscription, ...]:
    """Everything that the gateway reads."""
    project = Projector(notify)
    moved = project.generation_moved
    return (
        Subscription(CreditsReserved, project.credits_reserved),
        Subscription(CreditsRefused, project.credits_refused),
        Subscription(CreditsCaptured, project.credits_moved),
        Subscription(CreditsReleased, project.credits_moved),
        Subscription(CreditsGranted, project.credits_moved),
        Subscription(CreditsClawedBack, project.credits_moved),
        Subscription(CreditsExpired, project.credits_moved),
        Subscription(GenerationQueued, moved(handlers.queued)),
        Subscription(GenerationDispatched, moved(handlers.dispatched)),
        Subscription(GenerationStarted, moved(handlers.started)),
        Subscription(AttemptFailed, moved(handlers.attempt_failed)),
        Subscription(OutputReady, moved(handlers.output_ready)),
        Subscription(GenerationCompleted, moved(handlers.completed)),
        Subscription(GenerationFailed, moved(handlers.failed)),
        Subscription(GenerationCancelling, moved(handlers.cancelling)),
        Subscription(GenerationCancelled, moved(handlers.cancelled)),
        Subscription(AssetStored, project.asset_stored),
        Subscription(PaymentChanged, project.payment_changed),
        Subscription(PaymentRefused, project.payment_refused),
    )
