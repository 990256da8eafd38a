"""What the API takes."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from catalogue.model import MAX_COUNT
from contracts.object_keys import MAX_UPLOAD_BYTES
from contracts.payments import Provider

MAX_PARAMETERS: Final = 1000
"""No model takes as many."""
MAX_START_SECONDS: Final = 86_400
"""No model has a longer deadline."""


MAX_PRICE: Final[Any] = Field(
    default=None, ge=1, description="Refuse with 409 if the price of the whole order is higher."
)
COUNT: Final[Any] = Field(
    default=1,
    ge=1,
    le=MAX_COUNT,
    description="How many outputs to make, each with another seed and all for the same price; at most `max_count` of"
    " the model. They are funded together, or refused together.",
)


class Body(BaseModel):
    """Requests carry what is documented and nothing else."""

    # Strict: `true` and "5" are no numbers.
    model_config = ConfigDict(extra="forbid", strict=True)


class QuoteRequest(Body):
    """What would be made."""

    model_id: str = Field(max_length=64)
    parameters: dict[str, Any] = Field(max_length=MAX_PARAMETERS)
    count: int = COUNT


class GenerationRequest(QuoteRequest):
    """What is to be made, and for how much at most."""

    max_price_credits: int | None = MAX_PRICE
    start_within_seconds: int | None = Field(
        default=None,
        ge=1,
        le=MAX_START_SECONDS,
        description="If no worker has begun by then, the order ends as `not_started_in_time`: the credits come back.",
    )


class RepeatRequest(Body):
    """What is to differ from the order that is repeated: nothing, as a rule."""

    parameters: dict[str, Any] = Field(
        default_factory=dict,
        max_length=MAX_PARAMETERS,
        description="They replace those of the first order. Without a `seed` here, one is drawn.",
    )
    max_price_credits: int | None = MAX_PRICE
    count: int = COUNT


class PaymentRequest(Body):
    """A pack, and how to pay for it."""

    pack_id: str = Field(max_length=64)
    provider: Provider
    return_url: str | None = Field(
        default=None,
        max_length=1000,
        description="Where the checkout sends the user afterwards, paid or not, with `payment_id` in the query. Of an"
        " origin that may call this API.",
    )


class UploadRequest(Body):
    """A picture or a clip that is about to be uploaded."""

    content_type: Literal["image/png", "image/jpeg", "image/webp", "video/mp4"]
    size_bytes: int = Field(ge=1, le=MAX_UPLOAD_BYTES)


class VerifyRequest(Body):
    """The checksum of a file."""

    sha256: str = Field(min_length=64, max_length=64, pattern="^[0-9a-fA-F]*$")
