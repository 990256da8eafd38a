"""Which message is handled by what."""

from contracts.billing import CreditsClawedBack, CreditsGranted
from contracts.payments import CreatePayment
from messaging.consumers import Subscription
from payments.handlers import credits
from payments.handlers.purchases import Policy, create_payment
from payments.wake_ups import WakeUps


def subscriptions(policy: Policy, wake_ups: WakeUps) -> tuple[Subscription, ...]:
    """Everything that payments reads."""
    return (
        Subscription(CreatePayment, create_payment(policy, wake_ups)),
        Subscription(CreditsGranted, credits.mark_granted),
        Subscription(CreditsClawedBack, credits.mark_clawed_back),
    )
