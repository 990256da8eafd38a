"""What the gateway announces."""

from typing import ClassVar

from contracts.message import Message, Service
from contracts.values import GenerationOrder


class GenerationRequested(Message, frozen=True, kw_only=True):
    """A user asked for a clip or a picture; the request is validated, priced and durable, but not yet funded."""

    subject: ClassVar[str] = "gateway.event.generation-requested.v1"
    producers: ClassVar[tuple[Service, ...]] = ("gateway",)
    consumers: ClassVar[tuple[Service, ...]] = ("billing", "auditor")

    order: GenerationOrder
