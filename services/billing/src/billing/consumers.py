"""What billing listens to, and what it does about it.

The messages of one stream share a handler, so that a batch of them is decided together: in order of arrival, and under
one lock.
"""

from billing import handlers
from contracts.billing import ClawBackCredits, GrantCredits
from contracts.gateway import GenerationRequested
from contracts.generation import GenerationCancelled, GenerationCompleted, GenerationFailed
from messaging.consumers import Subscription

SUBSCRIPTIONS: tuple[Subscription, ...] = (
    Subscription(GenerationRequested, handlers.reserve),
    Subscription(GenerationCompleted, handlers.resolve),
    Subscription(GenerationFailed, handlers.resolve),
    Subscription(GenerationCancelled, handlers.resolve),
    Subscription(GrantCredits, handlers.apply_commands),
    Subscription(ClawBackCredits, handlers.apply_commands),
)
