"""Which message is handled by what."""

from collections.abc import Callable

from contracts.billing import CreditsClawedBack, CreditsGranted
from contracts.payments import CreatePayment
from messaging.consumers import Subscription
from payments import handlers
from payments.handlers import Policy


def subscriptions(policy: Policy, wake: Callable[[], None]) -> tuple[Subscription, ...]:
    """Everything that payments reads."""
    return (
        Subscription(CreatePayment, handlers.create_payment(policy, wake)),
        Subscription(CreditsGranted, handlers.mark_granted),
        Subscription(CreditsClawedBack, handlers.mark_clawed_back),
    )
