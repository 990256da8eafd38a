"""What the API gives, and how records become representations."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field

from contracts import values
from contracts.payments import Provider
from contracts.storage import DIGITAL_SOURCE_TYPE
from contracts.values import Kind, MovementReason
from gateway.domain import LONGEST_MOMENT, in_utc, written_day, written_moment, written_number
from gateway.estimates import Estimate
from gateway.events import FailureCode
from gateway.file_urls import DownloadUrls, PreviewUrl
from gateway.records import GenerationRecord, HistoryRecord, PaymentRecord, StoredFile, VariantRecord
from gateway.statuses import GenerationStatus, PaymentStatus

MAX_PAGE: Final = 100


class QuoteLine(BaseModel):
    """One part of a price."""

    label: str
    credits: int


class QuoteTerms(BaseModel):
    """An order can be cancelled for all its credits as long as it waits, and rarely once a worker has it."""

    running_cancels_per_day: int = Field(
        description="How much work that a worker has you may cancel in any 24 hours, by your plan. Beyond that it runs"
        " to its end and is charged: `cancel_allowance_used`."
    )


class Quote(BaseModel):
    """A price in whole credits, and the parts that add up to it; parameters with all defaults filled in."""

    model_id: str
    price_credits: int = Field(description="Of one output.")
    count: int
    total_price_credits: int = Field(description="Of the order: `count` times the price of one.")
    lines: list[QuoteLine]
    parameters: dict[str, Any]
    missing: list[str] = Field(description="What an order still needs. The price does not depend on it.")
    terms: QuoteTerms


class PreviewPicture(BaseModel):
    """A small WebP picture of the file. Its link expires with that of the file."""

    url: str
    content_type: str
    width_pixels: int
    height_pixels: int
    size_bytes: int


class Download(BaseModel):
    """Links to the file, its poster and its previews. They work until ``expires_at``; ask again for fresh ones."""

    url: str = Field(description="To show it.")
    save_url: str = Field(description="The same file; a browser saves it as `file_name`.")
    file_name: str
    poster_url: str
    thumbnails: list[PreviewPicture] = Field(
        description="The smallest first: 256, 512 and 1024 pixels on the longer side, and none larger than the file."
        " They come a moment after the file, with `previews_stored`. Until then, and if they cannot be made, this is"
        " empty: show the poster."
    )
    animated_preview: PreviewPicture | None = Field(
        description="The first three seconds of a clip, without sound. It comes with the thumbnails."
    )
    expires_at: datetime
    content_type: str
    size_bytes: int
    sha256: str
    width_pixels: int
    height_pixels: int
    duration_ms: int | None
    frames_per_second: float | None


class Verification(BaseModel):
    """Whether Reelhouse made a file. Nothing is said about who ordered it, or when."""

    made_here: bool = Field(description="True: these bytes were delivered by Reelhouse, and nothing was changed.")
    sha256: str
    kind: Kind | None = Field(description="Null if it was not made here.")
    digital_source_type: str | None = Field(description="In the vocabulary of the IPTC. Null if it was not made here.")
    explanation: str = Field(description="For people.")


class Failure(BaseModel):
    """Why there is no file. ``code`` is stable; ``detail`` is for people."""

    code: FailureCode
    detail: str | None


class Variant(BaseModel):
    """One output of an order for several."""

    id: UUID
    variant_number: int
    status: GenerationStatus
    captured_credits: int | None = Field(description="What was charged for it; known once it is completed.")
    deleted: bool = Field(description="Its user deleted it: its file is gone, and its charge stays.")


class Generation(BaseModel):
    """A generation, from the request to the file."""

    id: UUID
    status: GenerationStatus
    model_id: str
    kind: Kind
    parameters: dict[str, Any]
    price_credits: int
    captured_credits: int | None = Field(description="What was charged; known once it is completed.")
    attempt_number: int | None
    queue_position: int | None = Field(
        description="1 is served next, by the turns of all users. Null once it has left the queue, and where nobody"
        " knows it: in the first seconds, and far behind in a very long queue. So are the estimates."
    )
    estimated_start_at: datetime | None = Field(description="A worker begins as likely before as after it.")
    estimated_start_p90_at: datetime | None = Field(description="In nine of ten cases a worker begins before it.")
    estimated_completion_at: datetime | None = Field(description="It is delivered as likely before as after it.")
    estimated_completion_p90_at: datetime | None = Field(description="In nine of ten cases it is delivered before it.")
    late: bool = Field(description="Delivered after the credits had gone back: free of charge.")
    failure: Failure | None
    download: Download | None
    requested_at: datetime
    expires_at: datetime = Field(description="If it is not delivered by then, the credits go back.")
    start_before_at: datetime | None = Field(
        description="If no worker has begun by then, it ends, and the credits go back; null: nobody asked for that."
    )
    completed_at: datetime | None
    variant_of: UUID | None = Field(
        description="The id of its order: of the first variant, which has it, too. Null for an order of one."
    )
    variant_number: int = Field(description="Counts from 1.")
    count: int = Field(description="How many outputs were ordered together.")
    variants: list[Variant] = Field(description="All outputs of its order, itself included. Empty for an order of one.")
    total_price_credits: int = Field(description="The price of the whole order.")
    total_captured_credits: int = Field(description="What was charged so far for all outputs of the order.")


class GenerationPage(BaseModel):
    """Newest first; ``next_cursor`` is null on the last page."""

    items: list[Generation] = Field(max_length=MAX_PAGE)
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


class Balance(BaseModel):
    """``available`` can be spent, ``reserved`` is set aside for open orders, ``settled`` was spent, ever."""

    available_credits: int
    reserved_credits: int
    settled_credits: int
    receivable_credits: int = Field(description="Owed after a refund or dispute; nothing can be ordered until it is 0.")
    updated_at: datetime | None


class LedgerLine(BaseModel):
    """One movement. Each ``*_after`` is that of the line before plus the delta of this one."""

    line_number: int
    reason: MovementReason
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

    items: list[LedgerLine] = Field(max_length=MAX_PAGE)
    next_before: int | None


class UsageEntry(BaseModel):
    """What a user ordered of one model on one day (UTC). ``captured_credits`` is what these orders cost so far."""

    day: date
    model_id: str
    kind: Kind
    orders: int = Field(description="Without those that were refused.")
    completed: int
    captured_credits: int


class Usage(BaseModel):
    """Newest day first; a day or a model without orders is left out. Orders that were deleted count, too."""

    day_from: date
    day_to: date
    items: list[UsageEntry]


class Payment(BaseModel):
    """A payment: send the user to ``checkout_url`` while it is ``pending``."""

    id: UUID
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
    receipt_url: str | None = Field(description="The provider's receipt, where it makes one.")
    created_at: datetime
    expires_at: datetime | None


class PaymentPage(BaseModel):
    """Newest first; ``next_cursor`` is null on the last page."""

    items: list[Payment] = Field(max_length=MAX_PAGE)
    next_cursor: str | None


class Upload(BaseModel):
    """PUT the file to ``url`` with exactly these ``headers``, then name its ``id`` as a model's parameter."""

    id: UUID
    url: str
    headers: dict[str, str]
    expires_at: datetime


Limit = Annotated[int, Field(ge=1, le=MAX_PAGE), BeforeValidator(written_number)]
Day = Annotated[
    date,
    BeforeValidator(written_day),
    Field(description="A day in UTC, as 2026-11-23.", json_schema_extra={"maxLength": 10}),
]
Moment = Annotated[
    AwareDatetime,
    BeforeValidator(written_moment),
    AfterValidator(in_utc),
    Field(description="With its offset, as 2026-11-23T09:30:00Z.", json_schema_extra={"maxLength": LONGEST_MOMENT}),
]


def represent_generation(
    record: GenerationRecord,
    variants: Sequence[VariantRecord] = (),
    urls: DownloadUrls | None = None,
    estimate: Estimate | None = None,
) -> Generation:
    """A generation for its owner. ``urls`` are those of its file, if it has one; ``variants`` those of its order."""
    captured = [variant.captured_credits for variant in variants] if variants else [record.captured_credits]
    count = 1 if record.variant is None else record.variant.count
    start = None if estimate is None else estimate.start
    completion = None if estimate is None else estimate.completion
    failure = None
    if record.failure_code is not None:
        failure = Failure(code=record.failure_code, detail=record.failure_detail)
    return Generation(
        id=record.generation_id,
        status=record.status,
        model_id=record.model_id,
        kind=record.kind,
        parameters=record.parameters,
        price_credits=record.price_credits,
        captured_credits=record.captured_credits,
        attempt_number=record.attempt_number,
        queue_position=None if estimate is None else estimate.queue_position,
        estimated_start_at=None if start is None else start.p50_at,
        estimated_start_p90_at=None if start is None else start.p90_at,
        estimated_completion_at=None if completion is None else completion.p50_at,
        estimated_completion_p90_at=None if completion is None else completion.p90_at,
        late=record.late,
        failure=failure,
        download=None if record.file is None or urls is None else _represent_download(record.file, urls),
        requested_at=record.requested_at,
        expires_at=record.expires_at,
        start_before_at=record.start_before_at,
        completed_at=record.completed_at,
        variant_of=None if record.variant is None else record.variant.order_id,
        variant_number=1 if record.variant is None else record.variant.number,
        count=count,
        variants=[_represent_variant(variant) for variant in variants],
        total_price_credits=count * record.price_credits,
        total_captured_credits=sum(credits or 0 for credits in captured),
    )


def _represent_variant(record: VariantRecord) -> Variant:
    return Variant(
        id=record.generation_id,
        variant_number=record.number,
        status=record.status,
        captured_credits=record.captured_credits,
        deleted=record.is_deleted,
    )


def _represent_download(file: StoredFile, urls: DownloadUrls) -> Download:
    return Download(
        url=urls.url,
        save_url=urls.save_url,
        file_name=urls.file_name,
        poster_url=urls.poster_url,
        thumbnails=[_picture(one) for one in urls.thumbnails],
        animated_preview=None if urls.animated_preview is None else _picture(urls.animated_preview),
        expires_at=urls.expires_at,
        content_type=file.media.content_type,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        width_pixels=file.media.width_pixels,
        height_pixels=file.media.height_pixels,
        duration_ms=file.media.duration_ms,
        frames_per_second=file.media.frames_per_second,
    )


def _picture(address: PreviewUrl) -> PreviewPicture:
    preview = address.preview
    return PreviewPicture(
        url=address.url,
        content_type=preview.content_type,
        width_pixels=preview.width_pixels,
        height_pixels=preview.height_pixels,
        size_bytes=preview.size_bytes,
    )


def represent_payment(record: PaymentRecord) -> Payment:
    """A payment for its owner. ``checkout_url`` is left out when nothing can be paid there any more."""
    return Payment(
        id=record.payment_id,
        status=record.status,
        provider=record.provider,
        pack_id=record.pack_id,
        price_cents=record.price_cents,
        currency=record.currency,
        credits=record.credits,
        bonus_credits=record.bonus_credits,
        refunded_cents=record.refunded_cents,
        checkout_url=record.checkout_url if record.status == "pending" else None,
        detail=record.detail,
        receipt_url=record.receipt_url,
        created_at=record.created_at,
        expires_at=record.expires_at,
    )


def represent_line(line: values.LedgerLine) -> LedgerLine:
    """A line of the statement for its owner."""
    return LedgerLine(**{name: getattr(line, name) for name in LedgerLine.model_fields})


def represent_timeline(history: Sequence[HistoryRecord], requested_at: datetime | None = None) -> Timeline:
    """Entries with the time that passed between them; a generation's begin with its request."""
    entries: list[TimelineEntry] = []
    if requested_at is not None:
        entries.append(TimelineEntry(at=requested_at, name="requested", detail={}, since_previous_ms=None))
    for record in history:
        at = record.occurred_at.astimezone(UTC)
        since = None if not entries else (at - entries[-1].at) / timedelta(milliseconds=1)
        detail = {key: value for key, value in record.data.items() if key != "name"}
        entries.append(TimelineEntry(at=at, name=record.name, detail=detail, since_previous_ms=since))
    return Timeline(items=entries)


_MADE_HERE: Final = "This file was made by AI, with Reelhouse, and is as it was delivered."
_UNKNOWN: Final = (
    "Reelhouse delivered no file with exactly these bytes."
    " That does not prove that it was made elsewhere, or without AI:"
    " a copy that was cut, resized, edited or encoded again is another file, and has lost the mark."
)


def verification(sha256: str, kind: Kind | None) -> Verification:
    """What is said about a file; ``kind`` is None if no delivered file has this checksum."""
    made_here = kind is not None
    return Verification(
        made_here=made_here,
        sha256=sha256,
        kind=kind,
        digital_source_type=DIGITAL_SOURCE_TYPE if made_here else None,
        explanation=_MADE_HERE if made_here else _UNKNOWN,
    )
