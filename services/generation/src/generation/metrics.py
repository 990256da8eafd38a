"""What Prometheus sees of generation. Times are in seconds."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_LATENCY: Final = (0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)

READY: Final = Gauge("generation_queue_ready_orders", "Orders that could be served now", ["endpoint", "lane"])
OLDEST: Final = Gauge("generation_queue_oldest_seconds", "Age of the oldest such order", ["endpoint", "lane"])
ACTIVE: Final = Gauge("generation_active_attempts", "Attempts that may be using a worker", ["endpoint"])
PAUSED: Final = Gauge("generation_endpoint_held", "1 while the queue is paused", ["endpoint"])
ORDERS: Final = Gauge("generation_open_orders", "Orders that are not final, by status", ["status"])
WORKERS: Final = Gauge("generation_provider_workers", "Workers as the provider counts them", ["endpoint", "state"])
CLAIM_SECONDS: Final = Histogram("generation_claim_seconds", "One claim from the queue", buckets=_LATENCY)
SUBMITTED_SECONDS: Final = Histogram(
    "generation_submit_latency_seconds", "From the claim of an order to its recorded submission", buckets=_LATENCY
)
SUBMISSIONS: Final = Counter(
    "generation_submissions_total",
    "Submissions by outcome: accepted, refused, rejected, unanswered",
    ["endpoint", "outcome"],
)
ATTEMPTS_ENDED: Final = Counter(
    "generation_attempts_ended_total", "Attempts by their last state", ["endpoint", "status"]
)
ORDERS_ENDED: Final = Counter("generation_orders_ended_total", "Orders by their last state", ["status", "late"])
CALLBACKS: Final = Counter("generation_callbacks_total", "Reports on jobs by source and outcome", ["source", "outcome"])
REFUSED_CALLBACKS: Final = Counter("generation_callbacks_refused_total", "Callbacks that were refused", ["code"])
PROVIDER_SECONDS: Final = Histogram(
    "generation_provider_seconds", "Calls of the provider", ["operation", "outcome"], buckets=_LATENCY
)
