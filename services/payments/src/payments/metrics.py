"""Counters and gauges of payments, in one place because several modules count the same things."""

from prometheus_client import Counter, Gauge

provider_calls_total = Counter(
    "payments_provider_calls_total", "Calls to payment providers.", ["provider", "call", "outcome"]
)
provider_events_total = Counter("payments_provider_events_total", "Provider events stored.", ["provider", "source"])
unreadable_objects_total = Counter(
    "payments_unreadable_objects_total", "Provider objects that were left out.", ["provider"]
)
webhooks_refused_total = Counter("payments_webhooks_refused_total", "Webhooks that were refused.", ["provider", "code"])
work_failures_total = Counter("payments_work_failures_total", "Items of work that failed unexpectedly.")
differences_total = Counter(
    "payments_differences_total", "Differences that the daily comparison found.", ["provider", "code"]
)
sweep_failures_total = Counter("payments_sweep_failures_total", "Sweeps that did not finish.", ["sweep", "provider"])
last_sweep_seconds = Gauge(
    "payments_last_sweep_timestamp_seconds", "When a sweep last finished.", ["sweep", "provider"]
)
