"""What can go wrong in payments, one class per failure."""

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


class UnknownPayment(Exception):
    """No payment has this id."""


class RefundNotPossible(Exception):
    """The payment's state or provider does not allow the refund."""


class ResolutionNotPossible(Exception):
    """The review does not decide what is asked of it."""


class ReviewAlreadyResolved(Exception):
    """This review has a decision already."""
