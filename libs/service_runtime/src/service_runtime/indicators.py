"""Service level indicators: events that a promise is about, and those that kept it. The alerts burn on their ratio.

Both counters have one label, so that one rule serves every promise. A promise that is never tried stays at 0 and 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter

EVENTS: Final = Counter("slo_events_total", "Events that a promise is about", ["slo"])
GOOD_EVENTS: Final = Counter("slo_good_events_total", "Events that kept the promise", ["slo"])


@dataclass(frozen=True, slots=True)
class Indicator:
    """One promise. ``objective`` is the share of events that must keep it over 30 days."""

    name: str
    service: str
    objective: float
    meaning: str

    def start(self) -> None:
        """Show both counters from the start: a rate over a series that appears with its first event misses it."""
        EVENTS.labels(self.name)
        GOOD_EVENTS.labels(self.name)

    def count(self, *, good: bool) -> None:
        """One event."""
        EVENTS.labels(self.name).inc()
        if good:
            GOOD_EVENTS.labels(self.name).inc()


ACCEPTED_SECONDS: Final = 1.0
CREDITED_SECONDS: Final = 60.0

ACCEPTED_IN_TIME: Final = Indicator(
    "accepted_in_time",
    "gateway",
    0.999,
    f"an order is answered within {ACCEPTED_SECONDS:g} s, and not by an error of ours (refusals are not counted)",
)
DELIVERED_IN_TIME: Final = Indicator(
    "delivered_in_time",
    "generation",
    0.99,
    "a paid order is delivered before its deadline (orders that users cancelled or got wrong are not counted)",
)
CREDITED_IN_TIME: Final = Indicator(
    "credited_in_time",
    "payments",
    0.999,
    f"credits that a payment bought are in the ledger within {CREDITED_SECONDS:g} s of our knowing of the money",
)
INDICATORS: Final[Sequence[Indicator]] = (ACCEPTED_IN_TIME, DELIVERED_IN_TIME, CREDITED_IN_TIME)
