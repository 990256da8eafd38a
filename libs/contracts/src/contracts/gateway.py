"""What the gateway announces."""

from typing import ClassVar, Literal
from uuid import UUID

from contracts.message import Message, Service
from contracts.values import GenerationOrder


class GenerationRequested(Message, frozen=True, kw_only=True):
    """A user asked for a clip or a picture; the request is validated, priced and durable, but not yet funded.

    Published again with a ``withdrawal`` for an order that billing has not answered when its time is over.
    """

    subject: ClassVar[str] = "gateway.event.generation-requested.v1"
    producers: ClassVar[tuple[Service, ...]] = ("gateway",)
    consumers: ClassVar[tuple[Service, ...]] = ("billing", "auditor")

    order: GenerationOrder
    withdrawal: Literal["cancelled", "expired"] | None = None
    """Said in a repetition: credits that have not been reserved by now are not to be reserved any more."""


class VariantsRequested(Message, frozen=True, kw_only=True):
    """A user asked for several outputs in one order: each is a generation of its own, and all are funded, or none is.

    ``orders`` are of this user and at one price, and differ in their ids and seeds. The first one's id is that of the
    order. What is withdrawn before is withdrawn by ``GenerationRequested``, variant by variant, and funded no more.
    """

    subject: ClassVar[str] = "gateway.event.variants-requested.v1"
    producers: ClassVar[tuple[Service, ...]] = ("gateway",)
    consumers: ClassVar[tuple[Service, ...]] = ("billing", "auditor")

    user_id: UUID
    orders: tuple[GenerationOrder, ...]
