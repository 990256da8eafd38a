"""The messages that billing consumes, and the handler of each.

The messages of one stream share a handler, so that a batch of them is decided together: in order of arrival, and under
one lock.
"""

from functools import partial
from typing import Final

from billing import handlers
from contracts.billing import ClawBackCredits, GrantCredits, GrantSignupCredits
from contracts.gateway import GenerationRequested, VariantsRequested
from contracts.generation import GenerationCancelled, GenerationCompleted, GenerationFailed
from messaging.consumers import Subscription

LINGER_SECONDS: Final = 0.5
"""No user waits for a reservation to be resolved: outcomes that arrive within this time share one transaction.

What comes after a quiet time does not wait.
"""


def subscriptions(max_signup_credits: int = 0) -> tuple[Subscription, ...]:
    """What billing reads. A sign-up is credited with at most ``max_signup_credits``."""
    apply_commands = partial(handlers.apply_commands, max_signup_credits=max_signup_credits)
    return (
        Subscription(GenerationRequested, handlers.reserve),
        Subscription(VariantsRequested, handlers.reserve),
        Subscription(GenerationCompleted, handlers.resolve, linger_seconds=LINGER_SECONDS),
        Subscription(GenerationFailed, handlers.resolve, linger_seconds=LINGER_SECONDS),
        Subscription(GenerationCancelled, handlers.resolve, linger_seconds=LINGER_SECONDS),
        Subscription(GrantCredits, apply_commands),
        Subscription(GrantSignupCredits, apply_commands),
        Subscription(ClawBackCredits, apply_commands),
    )
