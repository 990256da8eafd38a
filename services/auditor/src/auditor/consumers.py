"""What the auditor reads: every message that the contracts let it read goes into the journal."""

from typing import Final

from auditor import handlers
from contracts.registry import consumed_by
from messaging.consumers import Subscription

LINGER_SECONDS: Final = 1.0
"""Nothing waits for the journal, so messages are collected: a batch costs as much as a message."""

# The journal's primary key is the message id, so a repeated message is harmless without an inbox.
SUBSCRIPTIONS: Final = tuple(
    Subscription(message, handlers.record, inbox=False, linger_seconds=LINGER_SECONDS, foreign=True)
    for message in consumed_by("auditor")
)
