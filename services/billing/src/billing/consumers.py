"""The messages that billing consumes, and the handler of each.

The messages of one stream share a handler, so that a batch of them is decided together: in order of arrival, and under
one lock.
"""

from typing import Final

from billing import handlers
from contracts.billing import ClawBackCredits, GrantCredits
from contracts.gateway import GenerationRequested
from contracts.generation import GenerationCancelled, GenerationCompleted, GenerationFailed
from messaging.consumers import Subscription

LINGER_SECONDS: Final = 0.05
"""No user waits for a reservation to be resolved: outcomes that arrive within this time share one transaction."""

SUBSCRIPTIONS: tuple[Subscription, ...] = (
    Subscription(GenerationRequested, handlers.reserve),
    Subscription(GenerationCompleted, handlers.resolve, linger_seconds=LINGER_SECONDS),
    Subscription(GenerationFailed, handlers.resolve, linger_seconds=LINGER_SECONDS),
    Subscription(GenerationCancelled, handlers.resolve, linger_seconds=LINGER_SECONDS),
    Subscription(GrantCredits, handlers.apply_commands),
    Subscription(ClawBackCredits, handlers.apply_commands),
)
