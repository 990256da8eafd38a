"""The rows of the gateway's tables as the rest of the service sees them: typed values that do not change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

from contracts.billing import RefusalCode
from contracts.payments import PaymentRefusalCode, Provider
from contracts.storage import Preview
from contracts.values import GenerationOrder, Kind, MediaProperties
from gateway.events import EventName, FailureCode
from gateway.statuses import GenerationStatus, PaymentStatus


@dataclass(frozen=True, slots=True)
class GenerationRequestRecord:
    """The request that used an idempotency key, with billing's verdict; None until billing has answered."""

    generation_id: UUID
    request_hash: bytes
    verdict: Literal["reserved"] | RefusalCode | None
    required_credits: int | None
    available_credits: int | None


@dataclass(frozen=True, slots=True)
class TakenWrite:
    """How many writes a user has left after one was taken, None if there were too few; and the database's time."""

    tokens: float | None
    at: datetime


@dataclass(frozen=True, slots=True)
class PaymentRequestRecord:
    """The purchase that used an idempotency key, with the refusal of payments, if there is one."""

    payment_id: UUID
    request_hash: bytes
    refusal_code: PaymentRefusalCode | None
    refusal_detail: str | None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A checked file in the library."""

    object_key: str
    poster_object_key: str
    size_bytes: int
    sha256: str
    media: MediaProperties


@dataclass(frozen=True, slots=True)
class StoredPreviews:
    """Small pictures of a file, the smallest first, and one that moves. They are known after the file, or never."""

    thumbnails: tuple[Preview, ...] = ()
    animated_preview: Preview | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """The place of a generation among those that were ordered with it: ``order_id`` is the id of the first one."""

    order_id: UUID
    number: int
    count: int


@dataclass(frozen=True, slots=True)
class VariantRecord:
    """What is shown of a variant beside the others of its order."""

    generation_id: UUID
    order_id: UUID
    number: int
    status: GenerationStatus
    captured_credits: int | None
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """A generation as its owner sees it. ``file`` may be known before the generation is completed.

    ``captured_credits`` is known from the completion on.
    """

    generation_id: UUID
    status: GenerationStatus
    model_id: str
    kind: Kind
    parameters: dict[str, Any]
    price_credits: int
    captured_credits: int | None
    attempt_number: int | None
    late: bool
    failure_code: FailureCode | None
    failure_detail: str | None
    file: StoredFile | None
    previews: StoredPreviews
    requested_at: datetime
    expires_at: datetime
    start_before_at: datetime | None
    completed_at: datetime | None
    deleted_at: datetime | None
    variant: Variant | None = None
    """None for an order of one."""


def first_of_order(orders: Sequence[GenerationOrder]) -> GenerationRecord:
    """The first of these generations, which were ordered together just now."""
    order = orders[0]
    return GenerationRecord(
        generation_id=order.generation_id,
        status="requested",
        model_id=order.model_id,
        kind=order.kind,
        parameters=order.parameters,
        price_credits=order.price_credits,
        captured_credits=None,
        attempt_number=None,
        late=False,
        failure_code=None,
        failure_detail=None,
        file=None,
        previews=StoredPreviews(),
        requested_at=order.requested_at,
        expires_at=order.expires_at,
        start_before_at=order.start_before_at,
        completed_at=None,
        deleted_at=None,
        variant=Variant(order.generation_id, 1, len(orders)) if len(orders) > 1 else None,
    )


@dataclass(frozen=True, slots=True)
class PaymentRecord:
    """A payment as its owner sees it."""

    payment_id: UUID
    version: int
    status: PaymentStatus
    provider: Provider
    pack_id: str
    price_cents: int
    currency: str
    credits: int
    bonus_credits: int
    refunded_cents: int
    checkout_url: str | None
    detail: str | None
    receipt_url: str | None
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewPayment:
    """A purchase that is about to be asked of payments."""

    payment_id: UUID
    user_id: UUID
    provider: Provider
    pack_id: str
    price_cents: int
    currency: str
    credits: int
    bonus_credits: int


@dataclass(frozen=True, slots=True)
class BalanceRecord:
    """The balance after the last statement line that is known."""

    available_credits: int
    reserved_credits: int
    receivable_credits: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class LedgerHeadRecord:
    """A head of the sealed ledger as billing published it: how many postings it has, and the root over them."""

    tree_size: int
    root_hash: bytes
    published_at: datetime


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What a user ordered of one model on one day (UTC)."""

    day: date
    model_id: str
    kind: Kind
    orders: int
    completed: int
    captured_credits: int


@dataclass(frozen=True, slots=True)
class HistoryRecord:
    """One entry of a user's history. ``data`` is the event as it was written (``gateway.events``)."""

    sequence: int
    event: EventName
    name: str
    data: Mapping[str, object]
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class RunningCancels:
    """A user's cancels of running work within the window, and how long until there is one less."""

    count: int
    includes_this: bool
    seconds_to_next: int


@dataclass(frozen=True, slots=True)
class Signup:
    """Whether billing was asked to credit a user for signing up, and whether the user has credits or had some."""

    is_requested: bool
    has_had_credits: bool


@dataclass(frozen=True, slots=True)
class RecentUploads:
    """What a user has begun to upload within 24 hours."""

    count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class NewUpload:
    """A file that a user may upload."""

    upload_id: UUID
    user_id: UUID
    content_type: str
    size_bytes: int
