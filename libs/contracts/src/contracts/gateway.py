"""What the gateway announces."""

from typing import ClassVar, Literal

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
