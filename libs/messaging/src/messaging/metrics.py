"""What Prometheus sees of messaging. Times are in seconds."""

from collections.abc import Iterable
from functools import cache
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_LATENCY: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)

OUTBOX_BACKLOG: Final = Gauge("messaging_outbox_backlog_messages", "Committed messages not yet published", ["service"])
OUTBOX_OLDEST: Final = Gauge("messaging_outbox_oldest_seconds", "Age of the oldest unpublished message", ["service"])
PUBLISHED: Final = Counter("messaging_published_total", "Messages acknowledged by the broker", ["service", "subject"])
PUBLISH_FAILURES: Final = Counter(
    "messaging_publish_failures_total", "Publishes that were not acknowledged", ["service", "subject", "reason"]
)
PUBLISH_LATENCY: Final = Histogram(
    "messaging_publish_latency_seconds", "From commit of a message to its PubAck", ["service"], buckets=_LATENCY
)
CONSUMED: Final = Counter(
    "messaging_consumed_total",
    "Deliveries by outcome: handled, duplicate, deferred, failed, dead",
    ["service", "subject", "outcome"],
)
HANDLER_SECONDS: Final = Histogram(
    "messaging_handler_seconds", "Time of one handler call for one batch", ["service", "subject"], buckets=_LATENCY
)
BATCH_SIZE: Final = Histogram(
    "messaging_batch_messages", "Messages per transaction", ["consumer"], buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
REDELIVERIES: Final = Counter("messaging_redeliveries_total", "Messages delivered more than once", ["consumer"])
DEFERRED: Final = Counter("messaging_deferred_total", "Messages sent back because they were early", ["consumer"])
BROKER_WRITABLE: Final = Gauge(
    "messaging_broker_writable", "1 while JetStream answers this service and stores its messages", ["service"]
)
PENDING: Final = Gauge(
    "messaging_consumer_pending_messages", "Messages of its stream that a consumer has not handled yet", ["consumer"]
)
DEAD_LETTERS: Final = Counter("messaging_dead_letters_total", "Messages given up on", ["service", "subject", "reason"])
AMNESIA: Final = Counter(
    "messaging_amnesia_recoveries_total", "Times that the broker was found to have forgotten", ["service", "stream"]
)
STREAM_BYTES: Final = Gauge("messaging_stream_bytes", "What the stream of this service holds", ["stream"])
STREAM_LIMIT: Final = Gauge("messaging_stream_limit_bytes", "Above it the stream refuses what comes", ["stream"])
STREAM_RETENTION: Final = Gauge(
    "messaging_stream_retention_seconds",
    "For how long the stream keeps messages, less while it is nearly full",
    ["stream"],
)
DATABASE_BEHIND: Final = Gauge(
    "messaging_database_behind", "Whether the database was found to be older than the broker", ["service"]
)
FEED_REBUILDS: Final = Counter(
    "messaging_feed_rebuilds_total", "Subscriptions built again after the flow stopped", ["consumer"]
)
LEASED_WORK: Final = Gauge("messaging_leased_work_running", "Rows that are being worked on", ["worker"])
LEASED_WORK_FAILURES: Final = Counter(
    "messaging_leased_work_failures_total", "Leased work that failed and was postponed", ["worker"]
)
LEASES_LOST: Final = Counter(
    "messaging_leases_lost_total", "Leases that ended while their work was under way", ["worker"]
)

# What is counted for every message: to look up its labels costs four times as much as to count it.
consumed: Final = cache(CONSUMED.labels)
published: Final = cache(PUBLISHED.labels)
publish_latency: Final = cache(PUBLISH_LATENCY.labels)
handler_seconds: Final = cache(HANDLER_SECONDS.labels)
batch_size: Final = cache(BATCH_SIZE.labels)

OUTCOMES: Final = ("handled", "duplicate", "deferred", "failed", "dead")
DEAD_LETTER_REASONS: Final = ("early", "poison", "undecodable")
"""Of a consumer. The relay has one of its own: ``rejected``."""


def start_consumer(service: str, stream: str, consumer: str, subjects: Iterable[str]) -> None:
    """Show what may be counted at 0: ``increase`` over a series that appears with its first event misses it."""
    for subject in subjects:
        for outcome in OUTCOMES:
            CONSUMED.labels(service, subject, outcome)
        for reason in DEAD_LETTER_REASONS:
            DEAD_LETTERS.labels(service, subject, reason)
    AMNESIA.labels(service, stream)
    REDELIVERIES.labels(consumer)
    DEFERRED.labels(consumer)
    FEED_REBUILDS.labels(consumer)


def show_stream(stream: str, size_bytes: int, limit_bytes: int | None, retention_seconds: float | None) -> None:
    """What the broker says of a stream; a limit that is not set is not shown."""
    STREAM_BYTES.labels(stream).set(size_bytes)
    if limit_bytes and limit_bytes > 0:
        STREAM_LIMIT.labels(stream).set(limit_bytes)
    if retention_seconds:
        STREAM_RETENTION.labels(stream).set(retention_seconds)


def start_relay(service: str, subjects: Iterable[str]) -> None:
    """The same for what a service publishes."""
    for subject in subjects:
        PUBLISHED.labels(service, subject)
        DEAD_LETTERS.labels(service, subject, "rejected")
    OUTBOX_BACKLOG.labels(service).set(0)
    OUTBOX_OLDEST.labels(service).set(0)
    PUBLISH_LATENCY.labels(service)
