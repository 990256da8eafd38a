"""What can go wrong in payments, one class per failure."""

from typing import ClassVar

from service_runtime.problems import Problem


class InvalidWebhookSignature(Problem):
    """The sender did not prove who it is. Nothing is stored."""

    code = "invalid_webhook_signature"
    title = "The webhook's signature is missing, wrong or too old"
    status = 400


class ProviderNotConfigured(Problem):
    """No credentials are set for this provider here."""

    code = "provider_not_configured"
    title = "This payment provider is not configured"
    status = 404


class ProviderUnavailable(Exception):
    """The provider gave no usable answer (network, 429, 5xx). The call is repeated later with the same identity."""


class CredentialsRefused(ProviderUnavailable):
    """The provider does not accept our key (401, 403). Repeating helps once an operator has corrected the key."""


class ProviderRefused(Exception):
    """The provider says that the call can never succeed as it is."""


class CommandRefused(Exception):
    """What an operator asks for cannot be done. Nothing has changed."""

    code: ClassVar[str]


class UnknownPayment(CommandRefused):
    """No payment has this id."""

    code = "unknown_payment"


class RefundNotPossible(CommandRefused):
    """The payment's state or provider does not allow the refund."""

    code = "refund_not_possible"


class ResolutionNotPossible(CommandRefused):
    """The review does not decide what is asked of it."""

    code = "resolution_not_possible"


class ReviewAlreadyResolved(CommandRefused):
    """This review has a decision already, or there is none of this id."""

    code = "review_already_resolved"
