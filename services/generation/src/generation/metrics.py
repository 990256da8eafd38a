"""What Prometheus sees of generation. Times are in seconds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, get_args

from prometheus_client import Counter, Gauge, Histogram

from catalogue.gpu_cost import usd_per_credit
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
MAX_WORKERS: Final = Gauge(
    "generation_provider_max_workers", "How many workers the provider may start; 0 is switched off", ["endpoint"]
)
JOBS: Final = Gauge("generation_provider_jobs", "Jobs as the provider counts them", ["endpoint", "state"])
KEEP_ALIVES: Final = Counter(
    "generation_keep_alives_total",
    "Jobs that only keep an idle endpoint from being switched off",
    ["endpoint", "outcome"],
)
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
ESTIMATE_RATIO: Final = Histogram(
    "generation_estimate_ratio",
    "What came true as a multiple of what a user was told, of delivered orders: up to 1 the estimate held",
    ["estimate"],
    # Signed seconds would have no sum: the exposition allows none beside buckets below zero.
    buckets=(0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 5, 10),
)
ESTIMATING_SECONDS: Final = Histogram(
    "generation_estimating_seconds", "One round of estimating every order that is under way", buckets=_LATENCY
)
GPU_SECONDS: Final = Counter(
    "generation_gpu_seconds_total",
    "Worker time of attempts by their last state, as the provider reports it",
    ["model", "tier", "status"],
)
GPU_COST_USD: Final = Counter(
    "generation_gpu_cost_usd_total",
    "What that time and the cold starts before it cost, by the price list of the GPUs",
    ["model", "tier", "status"],
)
CANCELLED_GPU_SECONDS: Final = Counter(
    "generation_cancelled_gpu_seconds_total",
    "Worker time of attempts that their user's cancel stopped: nobody pays for it",
    ["model", "tier"],
)
REVENUE_USD: Final = Counter(
    "generation_revenue_usd_total",
    "Captured credits of delivered orders, at the least that a credit is sold for",
    ["model", "tier"],
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
PROVIDER_ANSWERS: Final = Counter(
    "generation_provider_answers_total",
    "Answers of the provider to single requests, by class of the HTTP status; `none` without one",
    ["operation", "status"],
)

SUBMISSION_OUTCOMES: Final = ("accepted", "refused", "rejected", "unanswered")
REFUSAL_CODES: Final = ("invalid_callback_signature", "callback_expired", "malformed_progress", "too_many_callbacks")
WORKER_STATES: Final = ("idle", "initializing", "ready", "running", "throttled", "unhealthy")
JOB_STATES: Final = ("queued", "running")
_OPERATIONS: Final = ("run", "status", "cancel", "health", "endpoint")
_ANSWERS: Final = ("2xx", "3xx", "4xx", "429", "5xx", "none")
_ESTIMATES: Final = ("start_p50", "start_p90", "completion_p50", "completion_p90")
_SPENDING: Final[tuple[AttemptStatus, ...]] = ("succeeded", "failed", "lost", "cancelled")
_UNKNOWN_TIER: Final = "unknown"
"""Of an order that came before tiers were written down, or whose model the catalogue did not know."""
_KEPT_PROMISES: Final = ("invalid_input", "not_started_in_time")
"""The failures that break no promise of ours: the user's fault, and an end that the user asked for."""


def start(endpoints: Iterable[str], tiers: Mapping[str, Sequence[str]]) -> None:
    """Show every series that is known beforehand at 0: ``increase`` misses the event that a series begins with.

    ``tiers`` are those of each model.
    """
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
        for outcome in ("submitted", "failed"):
            KEEP_ALIVES.labels(endpoint, outcome)
    for model in tiers:
        for lane in get_args(Lane):
            IN_FLIGHT.labels(model, lane).set(0)
        for tier in tiers[model]:
            REVENUE_USD.labels(model, tier)
            CANCELLED_GPU_SECONDS.labels(model, tier)
            for status in _SPENDING:
                GPU_SECONDS.labels(model, tier, status)
                GPU_COST_USD.labels(model, tier, status)
        DELIVERED_CREDITS.labels(model)
        ORDER_SECONDS.labels(model)
    for order_status in get_args(OrderStatus):
        if order_status in FINAL_ORDER_STATUSES:
            ORDERS_ENDED.labels(order_status, "false")
        else:
            ORDERS.labels(order_status).set(0)
    ORDERS_ENDED.labels("completed", "true")
    for estimate in _ESTIMATES:
        ESTIMATE_RATIO.labels(estimate)
    for code in REFUSAL_CODES:
        REFUSED_CALLBACKS.labels(code)
    for operation in _OPERATIONS:
        PROVIDER_SECONDS.labels(operation, "answered")
        for answer in _ANSWERS:
            PROVIDER_ANSWERS.labels(operation, answer)
    DELIVERED_IN_TIME.start()


def count_order(status: OrderStatus, *, late: bool, code: str | None) -> None:
    """An order ended. A cancelled one, and one that could never work, break no promise."""
    ORDERS_ENDED.labels(status, str(late).lower()).inc()
    if late:
        return  # counted when it failed or was cancelled
    if status == "completed" or (status == "failed" and code not in _KEPT_PROMISES):
        DELIVERED_IN_TIME.count(good=status == "completed")


def count_spent(model: str, tier: str | None, status: AttemptStatus, milliseconds: int, micro_usd: int) -> None:
    """An attempt was found to have taken so much."""
    labels = (model, tier or _UNKNOWN_TIER, status)
    GPU_SECONDS.labels(*labels).inc(milliseconds / 1000)
    GPU_COST_USD.labels(*labels).inc(micro_usd / 1_000_000)


def count_thrown_away(model: str, tier: str | None, milliseconds: int) -> None:
    """So much of a worker's time was stopped by the user's cancel."""
    CANCELLED_GPU_SECONDS.labels(model, tier or _UNKNOWN_TIER).inc(milliseconds / 1000)


def count_revenue(model: str, tier: str | None, credits: int) -> None:
    """An order was delivered, and these credits are charged."""
    REVENUE_USD.labels(model, tier or _UNKNOWN_TIER).inc(float(credits * usd_per_credit()))


def count_answer(operation: str, status: int | None) -> None:
    """One request to the provider was answered so, or not at all."""
    by_class = "none" if status is None else "429" if status == 429 else f"{status // 100}xx"
    PROVIDER_ANSWERS.labels(operation, by_class).inc()
