"""What the API takes and gives, and how rows become representations."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import Row

from contracts.object_keys import MAX_UPLOAD_BYTES
from contracts.payments import Provider
from gateway.domain import in_utc

GenerationStatus = Literal[
    "requested",
    "refused",
    "queued",
    "dispatching",
    "running",
    "storing",
    "completed",
    "failed",
    "cancelling",
    "cancelled",
]
PaymentStatusShown = Literal[
    "created",
    "pending",
    "settled",
    "failed",
    "expired",
    "review",
    "partially_refunded",
    "refunded",
    "disputed",
    "dispute_lost",
    "refused",
]


class Body(BaseModel):
    """Requests carry what is documented and nothing else."""

    model_config = ConfigDict(extra="forbid")


class QuoteRequest(Body):
    """What would be made."""

    model_id: str = Field(max_length=64)
    parameters: dict[str, Any]


class GenerationRequest(QuoteRequest):
    """What is to be made, and for how much at most."""

    max_price_credits: int | None = Field(default=None, ge=1, description="Refuse with 409 if the price is higher.")


class PaymentRequest(Body):
    """A pack, and how to pay for it."""

    pack_id: str = Field(max_length=64)
    provider: Provider


class UploadRequest(Body):
    """A picture that is about to be uploaded."""

    content_type: Literal["image/png", "image/jpeg", "image/webp"]
    size_bytes: int = Field(ge=1, le=MAX_UPLOAD_BYTES)


class QuoteLineShown(BaseModel):
    """One part of a price."""

    label: str
    credits: int


class QuoteShown(BaseModel):
    """A price in whole credits, and the parts that add up to it; parameters with all defaults filled in."""

    model_id: str
    price_credits: int
    lines: list[QuoteLineShown]
    parameters: dict[str, Any]


class TierShown(BaseModel):
    """Outputs of up to so many pixels cost ``factor`` times the sum of the rates."""

    label: str
    up_to_pixels: int
    factor: str


class StepsShown(BaseModel):
    """``included`` steps cost nothing more; each further one adds ``share_per_extra_step`` of the price."""

    included: int
    share_per_extra_step: str


class SurchargesShown(BaseModel):
    """What multiplies the sum of the rates before it is rounded, in exact fractions.

    First the ``factor`` of the first of the ``resolutions`` that holds the output, or else of the last; then, with
    ``steps``, 1 + ``share_per_extra_step`` for each step above ``included``.
    """

    resolutions: list[TierShown]
    steps: StepsShown | None


class ModelShown(BaseModel):
    """A model: render a form from ``parameters_schema`` (JSON Schema 2020-12)."""

    id: str
    title: str
    description: str
    kind: Literal["video", "image"]
    parameters_schema: dict[str, Any]
    price: dict[str, str] = Field(description="Rates in credits, as exact fractions; the sum is rounded up once.")
    surcharges: SurchargesShown
    max_pixels: int
    order_deadline_seconds: int


class ModelList(BaseModel):
    """Every model on offer."""

    items: list[ModelShown]


class Download(BaseModel):
    """Links to the file and its poster. They work until ``expires_at``; ask again for fresh ones."""

    url: str
    poster_url: str
    expires_at: datetime
    content_type: str
    size_bytes: int
    sha256: str
    width_pixels: int
    height_pixels: int
    duration_ms: int | None
    frames_per_second: float | None


class Failure(BaseModel):
    """Why nothing was made. ``code`` is stable."""

    code: str
    detail: str | None


class GenerationShown(BaseModel):
    """A generation, from the request to the file."""

    id: UUID
    status: GenerationStatus
    model_id: str
    kind: Literal["video", "image"]
    parameters: dict[str, Any]
    price_credits: int
    captured_credits: int | None = Field(description="What was charged; null until it is.")
    attempt_number: int | None
    late: bool = Field(description="Delivered after the credits had gone back: free of charge.")
    failure: Failure | None
    download: Download | None
    requested_at: datetime
    expires_at: datetime = Field(description="If it is not delivered by then, the credits go back.")
    completed_at: datetime | None


class GenerationPage(BaseModel):
    """Newest first; ``next_cursor`` is null on the last page."""

    items: list[GenerationShown]
    next_cursor: str | None


class TimelineEntry(BaseModel):
    """One thing that happened, and how long after the one before."""

    at: datetime
    name: str
    detail: dict[str, Any]
    since_previous_ms: float | None


class Timeline(BaseModel):
    """Everything that happened, in order."""

    items: list[TimelineEntry]


class BalanceShown(BaseModel):
    """``available`` can be spent, ``reserved`` is held for work under way, ``settled`` was spent on delivered work."""

    available_credits: int
    reserved_credits: int
    settled_credits: int
    receivable_credits: int = Field(description="Owed after a refund or dispute; nothing can be ordered until it is 0.")
    updated_at: datetime | None


class LineShown(BaseModel):
    """One movement. Each ``*_after`` is that of the line before plus the delta of this one."""

    line_number: int
    reason: str
    available_delta_credits: int
    reserved_delta_credits: int
    receivable_delta_credits: int
    available_after_credits: int
    reserved_after_credits: int
    receivable_after_credits: int
    generation_id: UUID | None
    payment_id: UUID | None
    note: str | None
    occurred_at: datetime


class LedgerPage(BaseModel):
    """Newest first; ``next_before`` is null on the last page."""

    items: list[LineShown]
    next_before: int | None


class PackShown(BaseModel):
    """A credit pack. The price is in the smallest unit of the currency."""

    id: str
    title: str
    price_cents: int
    currency: str
    credits: int
    bonus_credits: int


class PackList(BaseModel):
    """Every pack on offer, cheapest first."""

    items: list[PackShown]


class PaymentShown(BaseModel):
    """A payment: send the user to ``checkout_url`` while it is ``pending``."""

    id: UUID
    status: PaymentStatusShown
    provider: Provider
    pack_id: str
    price_cents: int
    currency: str
    credits: int
    bonus_credits: int
    refunded_cents: int
    checkout_url: str | None
    detail: str | None
    created_at: datetime
    expires_at: datetime | None


class PaymentPage(BaseModel):
    """Newest first; ``next_cursor`` is null on the last page."""

    items: list[PaymentShown]
    next_cursor: str | None


class UploadShown(BaseModel):
    """PUT the file to ``url`` with exactly these ``headers``, then name its ``id`` as a model's parameter."""

    id: UUID
    url: str
    headers: dict[str, str]
    expires_at: datetime


Limit = Annotated[int, Field(ge=1, le=100)]
Moment = Annotated[
    AwareDatetime, AfterValidator(in_utc), Field(description="With its offset, as 2026-11-23T09:30:00Z.")
]


def show_generation(row: Row[Any], download: Download | None) -> GenerationShown:
    """The representation of a row of the read model."""
    failure = None if row.failure_code is None else Failure(code=row.failure_code, detail=row.failure_detail)
    return GenerationShown(
        id=row.generation_id,
        status=row.status,
        model_id=row.model_id,
        kind=row.kind,
        parameters=row.parameters,
        price_credits=row.price_credits,
        captured_credits=row.captured_credits,
        attempt_number=row.attempt_number,
        late=row.late,
        failure=failure,
        download=download,
        requested_at=row.requested_at,
        expires_at=row.expires_at,
        completed_at=row.completed_at,
    )


def show_payment(row: Row[Any]) -> PaymentShown:
    """The representation of a payment's row. A page that can no longer be paid at is not shown."""
    shown: dict[str, Any] = {
        name: row.payment_id if name == "id" else getattr(row, name) for name in PaymentShown.model_fields
    }
    if row.status != "pending":
        shown["checkout_url"] = None
    return PaymentShown(**shown)


def show_line(row: Row[Any]) -> LineShown:
    """The representation of a statement line."""
    return LineShown(**{name: getattr(row, name) for name in LineShown.model_fields})


def show_timeline(rows: list[Row[Any]]) -> Timeline:
    """Entries with the time that passed between them."""
    entries: list[TimelineEntry] = []
    for row in rows:
        at = row.occurred_at.astimezone(UTC)
        since = None if not entries else (at - entries[-1].at).total_seconds() * 1000
        detail = {key: value for key, value in row.data.items() if key != "name"}
        entries.append(TimelineEntry(at=at, name=row.name, detail=detail, since_previous_ms=since))
    return Timeline(items=entries)
