"""The events of a user's history and what each one carries: written by the projector, streamed and listed as they are.

The OpenAPI description is generated from these types. A field that is absent from an event is UNSET here.
"""

from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from contracts.billing import RefusalCode
from contracts.generation import FailureCode as WorkFailureCode
from contracts.live import GenerationProgress
from contracts.payments import PaymentChangeReason, PaymentRefusalCode
from contracts.values import MovementReason
from gateway.statuses import GenerationStatus, PaymentStatus

FailureCode = Literal[WorkFailureCode, RefusalCode]
"""Why there is no file: the work failed, or the order was not funded."""

EventName = Literal["generation.updated", "payment.updated", "balance.updated"]

PROGRESS_EVENT: Final = "generation.progress"
"""Not part of the history: it has no id, and may be lost."""
ESTIMATED_EVENT: Final = "generation.estimated"
"""The same."""
LIVE_EVENTS: Final = frozenset({PROGRESS_EVENT, ESTIMATED_EVENT})

Moment = Annotated[datetime, Meta(tz=True)]

GenerationEventName = Literal[
    "credits_reserved",
    "refused",
    "queued",
    "dispatching",
    "running",
    "attempt_failed",
    "storing",
    "late_output_ready",
    "asset_stored",
    "previews_stored",
    "completed",
    "failed",
    "cancelling",
    "cancelled",
    "credits_captured",
    "credits_released",
    "deleted",
]


class GenerationUpdated(Struct, frozen=True, kw_only=True):
    """Something happened to a generation. With a change of status it carries ``status`` and ``version``.

    Of two events with a ``version`` the higher one is the newer one.
    """

    event: ClassVar[EventName] = "generation.updated"

    generation_id: UUID
    name: GenerationEventName
    status: GenerationStatus | UnsetType = UNSET
    version: int | UnsetType = UNSET
    attempt_number: int | UnsetType = UNSET
    code: Annotated[FailureCode | UnsetType, Meta(description="With `refused`, `attempt_failed`, `failed`.")] = UNSET
    detail: Annotated[str | UnsetType, Meta(description="With `failed`; for people.")] = UNSET
    retry_at: Annotated[
        Moment | UnsetType | None,
        Meta(description="With `attempt_failed`: when the next attempt begins; null if none will."),
    ] = UNSET
    late: Annotated[bool | UnsetType, Meta(description="With `completed`: delivered free of charge.")] = UNSET
    captured_credits: Annotated[int | UnsetType, Meta(description="With `completed` and `credits_captured`.")] = UNSET
    released_credits: Annotated[int | UnsetType, Meta(description="With `credits_released`.")] = UNSET


class PaymentUpdated(Struct, frozen=True, kw_only=True):
    """Something happened to a payment. With a change of status it carries ``status`` and ``version``."""

    event: ClassVar[EventName] = "payment.updated"

    payment_id: UUID
    name: Annotated[
        str,
        Meta(
            description="`credits_granted`, `credits_clawed_back`, `payment_refused`, or `payment_` and the reason of a"
            " change."
        ),
    ]
    status: PaymentStatus | UnsetType = UNSET
    version: int | UnsetType = UNSET
    reason: Annotated[
        Literal[PaymentChangeReason, PaymentRefusalCode] | UnsetType, Meta(description="Why the status changed.")
    ] = UNSET
    credits: Annotated[
        int | UnsetType, Meta(description="With `credits_granted` and `credits_clawed_back`: how many.")
    ] = UNSET


class BalanceUpdated(Struct, frozen=True, kw_only=True):
    """The balance after the newest line of the statement. It only moves forward."""

    event: ClassVar[EventName] = "balance.updated"

    name: Literal["balance_updated"]
    available_credits: int
    reserved_credits: int
    receivable_credits: int
    line_number: int
    reason: MovementReason


class GenerationEstimated(Struct, frozen=True, kw_only=True):
    """When an order that waits or runs will probably begin and be delivered. Sent when that has changed.

    As likely before as after the first moment of each, and in nine of ten cases before the second.
    """

    generation_id: UUID
    queue_position: Annotated[
        int | None, Meta(description="1 is served next, by the turns of all users; null once it has left the queue.")
    ]
    estimated_start_at: Annotated[Moment | None, Meta(description="Null once a worker has begun.")]
    estimated_start_p90_at: Moment | None
    estimated_completion_at: Moment
    estimated_completion_p90_at: Moment


HistoryEvent = GenerationUpdated | PaymentUpdated | BalanceUpdated

STREAMED: Final[dict[str, type[Struct]]] = {
    "generation.updated": GenerationUpdated,
    "payment.updated": PaymentUpdated,
    "balance.updated": BalanceUpdated,
    PROGRESS_EVENT: GenerationProgress,
    ESTIMATED_EVENT: GenerationEstimated,
}
"""Every event of the stream by its name, with the type of its data. Those of the history get an id and ``at``."""
