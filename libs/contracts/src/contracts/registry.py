"""Every message there is, and what follows from the list: who owns, sends and receives which subject."""

from typing import Final

from contracts import billing, gateway, generation, payments, storage
from contracts.message import Message, Service

MESSAGES: Final[tuple[type[Message], ...]] = (
    gateway.GenerationRequested,
    gateway.VariantsRequested,
    billing.CreditsReserved,
    billing.CreditsRefused,
    billing.CreditsCaptured,
    billing.CreditsReleased,
    billing.GrantCredits,
    billing.GrantSignupCredits,
    billing.CreditsGranted,
    billing.ClawBackCredits,
    billing.CreditsClawedBack,
    billing.CreditsExpired,
    billing.LedgerHeadPublished,
    generation.CancelGeneration,
    generation.GenerationQueued,
    generation.GenerationDispatched,
    generation.GenerationStarted,
    generation.AttemptFailed,
    generation.OutputReady,
    generation.OutputSought,
    generation.GenerationCompleted,
    generation.GenerationFailed,
    generation.GenerationCancelling,
    generation.GenerationCancelled,
    storage.VerifyInputs,
    storage.InputsVerified,
    storage.InputsRejected,
    storage.AssetStored,
    storage.PreviewsStored,
    storage.AssetRejected,
    storage.OutputMissing,
    storage.DeleteFiles,
    storage.FilesDeleted,
    payments.CreatePayment,
    payments.PaymentRefused,
    payments.PaymentChanged,
)

BY_SUBJECT: Final[dict[str, type[Message]]] = {message.subject: message for message in MESSAGES}


def stream_of(subject: str) -> str:
    """Name of the stream that stores ``subject``: its first word in capitals."""
    return subject.split(".", 1)[0].upper()


def produced_by(service: Service) -> tuple[type[Message], ...]:
    """The messages that ``service`` may publish."""
    return tuple(message for message in MESSAGES if service in message.producers)


def consumed_by(service: Service) -> tuple[type[Message], ...]:
    """The messages that ``service`` reads."""
    return tuple(message for message in MESSAGES if service in message.consumers)
