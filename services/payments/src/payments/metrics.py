"""Counters and gauges of payments, in one place because several modules count the same things."""

from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter, Gauge

from contracts.payments import Provider
from service_runtime.indicators import CREDITED_IN_TIME

provider_calls_total = Counter(
    "payments_provider_calls_total", "Calls to payment providers.", ["provider", "call", "outcome"]
)
provider_events_total = Counter("payments_provider_events_total", "Provider events stored.", ["provider", "source"])
unreadable_objects_total = Counter(
    "payments_unreadable_objects_total", "Provider objects that were left out.", ["provider"]
)
webhooks_refused_total = Counter("payments_webhooks_refused_total", "Webhooks that were refused.", ["provider", "code"])
webhooks_ignored_total = Counter(
    "payments_webhooks_ignored_total", "Signed webhooks that are about no payment of ours.", ["provider"]
)
work_failures_total = Counter("payments_work_failures_total", "Items of work that failed unexpectedly.")
differences_total = Counter(
    "payments_differences_total", "Differences that the daily comparison found.", ["provider", "code"]
)
sweep_failures_total = Counter("payments_sweep_failures_total", "Sweeps that did not finish.", ["sweep", "provider"])
last_sweep_seconds = Gauge(
    "payments_last_sweep_timestamp_seconds", "When a sweep last finished.", ["sweep", "provider"]
)
due_oldest_seconds = Gauge("payments_due_oldest_seconds", "How long the oldest due lookup of a payment has waited.")
open_reviews = Gauge("payments_open_reviews", "Reviews that wait for a person's decision.")

SWEEPS: Final = ("events", "compare")
_CALLS: Final = ("look_up", "open_checkout", "refund", "find_payment")
_OUTCOMES: Final = ("ok", "refused", "unavailable", "denied", "unreadable")


def start(providers: Iterable[Provider]) -> None:
    """Show every series that is known beforehand at 0: ``increase`` misses the event that a series begins with."""
    for provider in providers:
        for call in _CALLS:
            for outcome in _OUTCOMES:
                provider_calls_total.labels(provider, call, outcome)
        for source in ("webhook", "sweep"):
            provider_events_total.labels(provider, source)
        for code in ("invalid_webhook_signature", "body_too_large"):
            webhooks_refused_total.labels(provider, code)
        for sweep in SWEEPS:
            sweep_failures_total.labels(sweep, provider)
            last_sweep_seconds.labels(sweep, provider).set(0)
        unreadable_objects_total.labels(provider)
        webhooks_ignored_total.labels(provider)
    CREDITED_IN_TIME.start()
