"""Lossy, immediate messages on core NATS: never stored, never through an outbox. Losing one loses nothing."""

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


GATEWAY_PROJECTED_PREFIX: Final = "live.gateway.projected.v1"
"""``<prefix>.<user id>``: a gateway replica wrote something for that user; the others' open streams read again."""
