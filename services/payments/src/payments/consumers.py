"""Which message is handled by what."""

from collections.abc import Callable

from contracts.billing import CreditsClawedBack, CreditsGranted
from contracts.payments import CreatePayment
from messaging.consumers import Subscription
from payments.handlers import credits
from payments.handlers.purchases import Policy, create_payment


def subscriptions(policy: Policy, wake: Callable[[], None]) -> tuple[Subscription, ...]:
    """Everything that payments reads. ``wake`` is called when a payment was written down."""
    return (
        Subscription(CreatePayment, create_payment(policy, wake)),
        Subscription(CreditsGranted, credits.mark_granted),
        Subscription(CreditsClawedBack, credits.mark_clawed_back),
    )
