"""Lossy, immediate messages on core NATS: never stored, never through an outbox. Losing one loses nothing."""

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

PROGRESS_SUBJECT: Final = "live.generation.progress.v1"


class GenerationProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a worker is. Sent at most once a second for each attempt.

    ``node`` is the title of what runs. ``preview`` is a small JPEG of what the worker has so far (base64 in JSON).
    """

    generation_id: UUID
    user_id: UUID
    attempt_number: int
    percent: int
    step: int | None = None
    steps: int | None = None
    stage: str | None = None
    node: str | None = None
    preview: bytes | None = None


ESTIMATES_SUBJECT: Final = "live.generation.estimates.v1"


class OrderEstimate(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What one order may expect: the median and the 90th percentile, in seconds from the message's ``made_at``.

    ``queue_position`` (1 is served next) while it waits in the queue, ``start_seconds`` until a worker has begun.
    """

    generation_id: UUID
    queue_position: int | None
    start_seconds: tuple[float, float] | None
    completion_seconds: tuple[float, float]


class QueueEstimates(msgspec.Struct, frozen=True, kw_only=True):
    """All orders that are under way at one endpoint, by user, at a moment of the database's clock.

    Sent every few seconds. Of a very long queue only the first part is estimated.
    """

    endpoint: str
    made_at: datetime
    users: dict[UUID, tuple[OrderEstimate, ...]]


GATEWAY_PROJECTED_PREFIX: Final = "live.gateway.projected.v1"
"""``<prefix>.<user id>``: a gateway replica wrote something for that user and for those that the message names besides;
the open streams of the other replicas read again."""
