"""What the auditor reads: every message that the contracts let it read, each into the journal."""

from auditor import handlers
from contracts.registry import consumed_by
from messaging.consumers import Subscription

# The journal's primary key is the message id, so a repeated message is harmless without an inbox.
SUBSCRIPTIONS = tuple(Subscription(message, handlers.record, inbox=False) for message in consumed_by("auditor"))
