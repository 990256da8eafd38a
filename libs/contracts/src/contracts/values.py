"""Value types that more than one message carries."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

Kind = Literal["video", "image"]
Lane = Literal["free", "standard", "pro"]

MovementReason = Literal[
    "purchase",  # bought credits arrive
    "bonus",  # the free part of a credit pack
    "signup",  # granted when the account was opened
    "goodwill",  # granted by an operator
    "reserve",  # available -> reserved
    "capture",  # reserved -> delivered work
    "release",  # reserved -> available
    "refund",  # a payment was refunded: credits taken back
    "dispute",  # a payment was disputed and lost: credits taken back
    "dispute_won",  # a dispute was won: credits returned
    "refund_failed",  # the provider could not refund: credits returned
    "expiry",  # a grant ran out of time
    "receivable_settled",  # new credits paid off what a clawback could not take
]


class GenerationOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One validated, priced request for a clip or a picture: everything that generation needs to make it.

    ``parameters`` are complete (defaults filled in) and valid against the catalogue's schema of ``model_id``.
    ``expires_at`` is the deadline: an order that is not delivered by then is failed and its credits released.
    ``start_before_at``: an order on which no worker has begun by then is failed, too; None where nobody asked for that.
    ``uploads`` maps each parameter that names an uploaded file to the upload.
    """

    generation_id: UUID
    user_id: UUID
    model_id: str
    kind: Kind
    parameters: dict[str, Any]
    price_credits: int
    lane: Lane
    uploads: dict[str, UUID] = {}
    requested_at: datetime
    expires_at: datetime
    start_before_at: datetime | None = None


class LedgerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One movement of one user's credits, as it appears on the statement.

    ``line_number`` counts 1, 2, 3, ... per user without gaps. ``available_after_credits`` of line N is that of line
    N-1 plus ``available_delta_credits``; the same holds for reserved and receivable: it adds up line by line.
    """

    line_number: int
    transfer_id: UUID
    user_id: UUID
    reason: MovementReason
    available_delta_credits: int
    reserved_delta_credits: int
    available_after_credits: int
    reserved_after_credits: int
    receivable_delta_credits: int = 0
    receivable_after_credits: int = 0
    generation_id: UUID | None = None
    payment_id: UUID | None = None
    note: str | None = None
    occurred_at: datetime


class MediaProperties(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured by decoding a stored file. Pictures have neither duration nor frame rate."""

    content_type: str
    width_pixels: int
    height_pixels: int
    codec: str
    duration_ms: int | None = None
    frames_per_second: float | None = None
    frames: int | None = None
    has_audio: bool = False


class ReportedOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says it uploaded. Storage believes none of it before it has checked."""

    attempt_id: UUID
    attempt_number: int
    object_key: str
    size_bytes: int | None = None
    sha256: str | None = None
    content_type: str | None = None
