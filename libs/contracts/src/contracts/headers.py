"""The headers that every message carries."""

from typing import Final

MESSAGE_ID: Final = "Nats-Msg-Id"
"""UUIDv7 of the message; JetStream's own dedupe header, so that broker and inbox agree on identity."""

CORRELATION_ID: Final = "Reelhouse-Correlation-Id"
"""The generation or payment that the message belongs to."""

CAUSATION_ID: Final = "Reelhouse-Causation-Id"
"""The message that caused this one; absent on the first of a chain."""

OCCURRED_AT: Final = "Reelhouse-Occurred-At"
"""RFC 3339, UTC, by the producer's database clock."""

PRODUCER: Final = "Reelhouse-Producer"
"""The service that published the message."""

TRACEPARENT: Final = "traceparent"
"""W3C trace context of the producer."""
