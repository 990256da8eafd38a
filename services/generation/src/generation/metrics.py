"""What Prometheus sees of generation. Times are in seconds."""

from collections.abc import Iterable
from typing import Final, get_args

from prometheus_client import Counter, Gauge, Histogram

from contracts.values import Lane
from generation.domain.statuses import FINAL_ORDER_STATUSES, LIVE_ATTEMPT_STATUSES, AttemptStatus, OrderStatus
from service_runtime.indicators import DELIVERED_IN_TIME

_LATENCY: Final = (0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)

READY: Final = Gauge("generation_queue_ready_orders", "Orders that could be served now", ["endpoint", "lane"])
OLDEST: Final = Gauge("generation_queue_oldest_seconds", "Age of the oldest such order", ["endpoint", "lane"])
ACTIVE: Final = Gauge("generation_active_attempts", "Attempts that may be using a worker", ["endpoint"])
PAUSED: Final = Gauge("generation_endpoint_held", "1 while the queue is paused", ["endpoint"])
IN_FLIGHT: Final = Gauge("generation_in_flight_attempts", "Attempts that may be using a worker", ["model", "lane"])
CALLBACKS_OLDEST: Final = Gauge(
    "generation_callbacks_oldest_seconds", "How long the oldest due callback has waited to be acted on"
)
ORDERS: Final = Gauge("generation_open_orders", "Orders that are not final, by status", ["status"])
WORKERS: Final = Gauge("generation_provider_workers", "Workers as the provider counts them", ["endpoint", "state"])
QUEUE_WAIT_SECONDS: Final = Histogram(
    "generation_queue_wait_seconds",
    "From an order's arrival to its first claim",
    ["endpoint", "lane"],
    buckets=_LATENCY,
)
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
ORDER_SECONDS: Final = Histogram(
    "generation_order_seconds", "From an order's request to its delivery", ["model"], buckets=_LATENCY
)
GPU_SECONDS: Final = Counter(
    "generation_gpu_seconds_total", "Worker time of attempts, as workers report it", ["model", "status"]
)
DELIVERED_CREDITS: Final = Counter(
    "generation_delivered_credits_total", "Prices of orders that were delivered and are charged", ["model"]
)
CALLBACKS_ACCEPTED: Final = Counter("generation_callbacks_accepted_total", "Callbacks that were stored")
CALLBACKS: Final = Counter("generation_callbacks_total", "Reports on jobs by source and outcome", ["source", "outcome"])
REFUSED_CALLBACKS: Final = Counter("generation_callbacks_refused_total", "Callbacks that were refused", ["code"])
PROVIDER_SECONDS: Final = Histogram(
    "generation_provider_seconds", "Calls of the provider", ["operation", "outcome"], buckets=_LATENCY
)

SUBMISSION_OUTCOMES: Final = ("accepted", "refused", "rejected", "unanswered")
REFUSAL_CODES: Final = ("invalid_callback_signature", "callback_expired", "malformed_progress", "too_many_callbacks")
_OPERATIONS: Final = ("run", "status", "cancel", "health")
_OWN_FAULT: Final = "invalid_input"
"""The one failure that is the user's, and breaks no promise of ours."""


def start(endpoints: Iterable[str], models: Iterable[str]) -> None:
    """Show every series that is known beforehand at 0: ``increase`` misses the event that a series begins with."""
    for endpoint in endpoints:
        for lane in get_args(Lane):
            READY.labels(endpoint, lane).set(0)
            OLDEST.labels(endpoint, lane).set(0)
            QUEUE_WAIT_SECONDS.labels(endpoint, lane)
        ACTIVE.labels(endpoint).set(0)
        PAUSED.labels(endpoint).set(0)
        for outcome in SUBMISSION_OUTCOMES:
            SUBMISSIONS.labels(endpoint, outcome)
        for status in get_args(AttemptStatus):
            if status not in LIVE_ATTEMPT_STATUSES:
                ATTEMPTS_ENDED.labels(endpoint, status)
    for model in models:
        for lane in get_args(Lane):
            IN_FLIGHT.labels(model, lane).set(0)
        for status in ("succeeded", "failed"):
            GPU_SECONDS.labels(model, status)
        DELIVERED_CREDITS.labels(model)
        ORDER_SECONDS.labels(model)
    for order_status in get_args(OrderStatus):
        if order_status in FINAL_ORDER_STATUSES:
            ORDERS_ENDED.labels(order_status, "false")
        else:
            ORDERS.labels(order_status).set(0)
    ORDERS_ENDED.labels("completed", "true")
    for code in REFUSAL_CODES:
        REFUSED_CALLBACKS.labels(code)
    for operation in _OPERATIONS:
        PROVIDER_SECONDS.labels(operation, "answered")
    DELIVERED_IN_TIME.start()


def count_order(status: OrderStatus, *, late: bool, code: str | None) -> None:
    """An order ended. A cancelled one, and one that could never work, break no promise."""
    ORDERS_ENDED.labels(status, str(late).lower()).inc()
    if late:
        return  # counted when it failed or was cancelled
    if status == "completed" or (status == "failed" and code != _OWN_FAULT):
        DELIVERED_IN_TIME.count(good=status == "completed")
