"""The tables of schema ``generation``. The migrations create them; a test holds that both agree."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Computed,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from generation.domain.statuses import FINAL_ORDER_STATUSES, LIVE_ATTEMPT_STATUSES

SCHEMA: Final = "generation"
metadata = MetaData(schema=SCHEMA)
_Time = DateTime(timezone=True)


def _listed(values: Sequence[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)


# The conditions of the partial indexes. A statement that is to use one must contain its condition, word for word.
LIVE_ATTEMPT: Final = f"status IN ({_listed(LIVE_ATTEMPT_STATUSES)})"
OPEN_ORDER: Final = f"status NOT IN ({_listed(FINAL_ORDER_STATUSES)})"
AWAITING_RETRY: Final = "status = 'queued' AND NOT ready AND inputs_ready AND sought_version IS NULL"

video_generations = Table(
    "video_generations",
    metadata,
    Column("generation_id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("model_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("endpoint", Text, nullable=False),  # the catalogue's logical name
    Column("lane", Text, nullable=False),
    Column("price_credits", BigInteger, nullable=False),
    Column("parameters", JSONB, nullable=False),
    Column("uploads", JSONB, nullable=False),
    Column("input_object_keys", JSONB),
    Column("status", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("ready", Boolean, nullable=False),  # may be claimed now: queued, inputs verified, no backoff, no lookup
    Column("inputs_ready", Boolean, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("failures", Integer, nullable=False),  # attempts that used up a try
    Column("handed_over_number", Integer),  # the attempt whose file storage verifies
    Column("requested_at", _Time, nullable=False),
    Column("enqueued_at", _Time, nullable=False),  # the place in the user's queue; a retry keeps it
    Column("next_attempt_at", _Time, nullable=False),
    Column("expires_at", _Time, nullable=False),
    Column("deadline_at", _Time, nullable=False),  # when the present state has lasted too long
    Column("finished_at", _Time),
    Column("sought_version", Integer),  # this and the next three: the open lookup
    Column("sought_code", Text),
    Column("sought_detail", Text),
    Column("sought_retry", Boolean),
    Column("failure_code", Text),
    Column("failure_detail", Text),
    Column("asset_id", Uuid),
    Column("late", Boolean, nullable=False),
    Column("expected_width_pixels", Integer, nullable=False),
    Column("expected_height_pixels", Integer, nullable=False),
    Column("expected_duration_ms", Integer),
    Column("max_size_bytes", BigInteger, nullable=False),
    Column("output_extension", Text, nullable=False),
    Column("execution_timeout_seconds", Integer, nullable=False),
    Column("traceparent", Text),
    Column("tier", Text),  # this and the next two: the catalogue's plan on the day of the order
    Column("planned_gpu", Text),
    Column("planned_cost_micro_usd", BigInteger),  # overhead included
    Column("start_before_at", _Time),  # without a worker by then the order is ended
    Column("planned_seconds", Double),  # of a warm worker, by the catalogue
    Index(
        "video_generations_ready",
        "endpoint",
        "lane",
        "user_id",
        "enqueued_at",
        "generation_id",
        postgresql_where=text("ready"),
    ),
    Index(
        "video_generations_backoff",
        "next_attempt_at",
        postgresql_where=text(AWAITING_RETRY),
    ),
    Index(
        "video_generations_deadline",
        "deadline_at",
        postgresql_where=text(OPEN_ORDER),
    ),
    Index("video_generations_user", "user_id", "generation_id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("attempt_id", Uuid, primary_key=True),
    Column("generation_id", Uuid, ForeignKey(f"{SCHEMA}.video_generations.generation_id"), nullable=False),
    Column("attempt_number", Integer, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("endpoint_id", Text, nullable=False),  # the provider's id
    Column("status", Text, nullable=False),
    Column("fence_token", BigInteger, nullable=False),
    Column("prepared_at", _Time, nullable=False),
    Column("check_at", _Time, nullable=False),  # lease end, end of the wait for a sign, or next poll of /status
    Column("last_checked_at", _Time),
    Column("sending_at", _Time),  # committed before the request is sent: without it, the provider has no job
    Column("provider_job_id", Text),
    Column("submitted_at", _Time),
    Column("started_at", _Time),
    Column("ended_at", _Time),
    Column("cancel_due_at", _Time),
    Column("cancel_tries", Integer, nullable=False),
    Column("failure_code", Text),
    Column("failure_detail", Text),
    Column("size_bytes", BigInteger),
    Column("sha256", Text),
    Column("content_type", Text),
    Column("execution_ms", BigInteger),
    Column("report", JSONB),
    Column("worker_id", Text),
    Column("gpu_type", Text),
    Column("gpu_assumed", Boolean),  # nobody said the GPU: it is the planned one
    Column("queue_ms", BigInteger),  # the wait at the provider, a cold start included
    Column("cold_start_ms", BigInteger),  # 0 on a warm worker
    Column("execution_assumed", Boolean),  # nobody said how long it ran: from the first sign of a worker to its end
    Column("cost_micro_usd", BigInteger),
    UniqueConstraint("generation_id", "attempt_number", name="attempts_number"),
    Index(
        "attempts_check",
        "check_at",
        postgresql_where=text(LIVE_ATTEMPT),
    ),
    Index(
        "attempts_live",
        "endpoint",
        postgresql_where=text(LIVE_ATTEMPT),
    ),
    Index("attempts_cancel", "cancel_due_at", postgresql_where=text("cancel_due_at IS NOT NULL")),
    Index("attempts_job", "provider_job_id"),
)

provider_callbacks = Table(
    "provider_callbacks",
    metadata,
    Column("callback_id", Uuid, primary_key=True),
    Column("attempt_id", Uuid, nullable=False),
    Column("source", Text, nullable=False),  # webhook | status
    Column("body", LargeBinary, nullable=False),
    Column("body_sha256", LargeBinary, nullable=False),
    Column("received_at", _Time, nullable=False),
    Column("due_at", _Time),  # when to act on it next; NULL when it is processed
    Column("tries", Integer, nullable=False),
    Column("processed_at", _Time),
    Column("outcome", Text),
    Column("carries_file", Boolean, nullable=False),  # processed under a lease, not in a batch
    Column("leased_until", _Time),
    Column("fence", BigInteger, nullable=False),
    UniqueConstraint("attempt_id", "body_sha256", name="provider_callbacks_once"),
    Index("provider_callbacks_due", "due_at", postgresql_where=text("processed_at IS NULL")),
    Index("provider_callbacks_processed", "processed_at", postgresql_where=text("processed_at IS NOT NULL")),
)

cancellations = Table(
    "cancellations",
    metadata,
    Column("generation_id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("requested_at", _Time, nullable=False),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("endpoint", Text, primary_key=True),
    Column("endpoint_id", Text, nullable=False),
    Column("max_active", Integer, nullable=False),
    Column("rate_per_second", Double, nullable=False),
    Column("burst", Integer, nullable=False),
    Column("tokens", Double, nullable=False),
    Column("tokens_at", _Time, nullable=False),
    Column("virtual_time", BigInteger, nullable=False),  # start tag of the last order served, over the lanes
    Column("consecutive_failures", Integer, nullable=False),
    Column("held_until", _Time),  # end of the queue's pause; after it, one probe at a time
)

lanes = Table(
    "lanes",
    metadata,
    Column("endpoint", Text, ForeignKey(f"{SCHEMA}.endpoints.endpoint"), primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("stride", BigInteger, nullable=False),  # what serving one order costs the lane: inverse to its weight
    Column("pass", BigInteger, nullable=False),  # start tag of the lane's next order
    Column("virtual_time", BigInteger, nullable=False),  # start tag of the last order served, over the lane's users
)

endpoint_health = Table(
    "endpoint_health",
    metadata,
    Column("endpoint", Text, primary_key=True),
    Column("due_at", _Time, nullable=False),  # when a replica asks the provider next
    Column("measured_at", _Time),  # of the last answer; NULL if the last question had none
    Column("workers", JSONB),  # the provider's count by state
    Column("jobs", JSONB),  # the same
    Column("max_workers", Integer),  # NULL where the key may not read it
    Column("keep_alive_at", _Time),  # of the last job that only kept the endpoint alive
)

measured_times = Table(
    "measured_times",
    metadata,
    Column("measure", Text, primary_key=True),
    Column("model_id", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("recent", ARRAY(Double), nullable=False),  # the newest last; bounded
)

user_queues = Table(
    "user_queues",
    metadata,
    Column("endpoint", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("user_id", Uuid, primary_key=True),
    Column("ready_count", Integer, nullable=False),
    Column("active_count", Integer, nullable=False),
    Column("active_cap", Integer, nullable=False),
    Column("turn", BigInteger, nullable=False),  # start tag of the user's next order
    Column("eligible", Boolean, Computed("ready_count > 0 AND active_count < active_cap", persisted=True)),
    Index(
        "user_queues_eligible",
        "endpoint",
        "lane",
        "turn",
        "user_id",
        postgresql_include=["active_cap", "active_count"],
        postgresql_where=text("eligible"),
    ),
)
