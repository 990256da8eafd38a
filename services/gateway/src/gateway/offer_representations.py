"""What the API gives of the offer: models with their prices, and credit packs."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from contracts.values import Kind

Price = Annotated[
    dict[str, str],
    Field(
        description="Rates in credits, as exact fractions; the sum is rounded up once, and is at least 1. "
        "A rate that is missing is 0: `base_credits`, `per_second_credits` (of `duration_seconds`), "
        "`per_megapixel_credits` (`width` times `height`, in millions) and `per_megapixel_second_credits` (of both).",
    ),
]


class ResolutionTier(BaseModel):
    """Outputs of up to so many pixels cost ``factor`` times the sum of the rates."""

    label: str
    up_to_pixels: int
    factor: str


class StepSurcharge(BaseModel):
    """``included`` steps cost nothing more; each further one adds ``share_per_extra_step`` of the price."""

    included: int
    share_per_extra_step: str


class Surcharges(BaseModel):
    """What multiplies the sum of the rates before it is rounded, in exact fractions.

    First the ``factor`` of the first of the ``resolutions`` that holds the output, or else of the last; then, with
    ``steps``, 1 + ``share_per_extra_step`` for each step above ``included``.
    """

    resolutions: list[ResolutionTier]
    steps: StepSurcharge | None


class Tier(BaseModel):
    """A way to make the same thing, chosen by ``steps``: the last tier whose ``from_steps`` is not larger."""

    id: str
    title: str
    from_steps: int
    price: Price
    surcharges: Surcharges


class Licence(BaseModel):
    """Under what the model may be used. ``excluded_territories`` are ISO 3166 codes, or ``EU``."""

    name: str
    spdx: str | None
    url: str
    excluded_territories: list[str]
    conditions: str


class Model(BaseModel):
    """A model: render a form from ``parameters_schema`` (JSON Schema 2020-12).

    ``price`` and ``surcharges`` are those of the tier that the defaults order.
    """

    id: str
    title: str
    description: str
    kind: Kind
    parameters_schema: dict[str, Any]
    price: Price
    surcharges: Surcharges
    tiers: list[Tier]
    audio: bool = Field(description="Its clips have sound.")
    licence: Licence
    max_pixels: int
    max_count: int = Field(description="How many outputs one order may ask for.")
    order_deadline_seconds: int


class ModelList(BaseModel):
    """Every model on offer."""

    items: list[Model]


class CreditPack(BaseModel):
    """A credit pack. The price is in the smallest unit of the currency."""

    id: str
    title: str
    price_cents: int
    currency: str
    credits: int
    bonus_credits: int


class CreditPackList(BaseModel):
    """Every pack on offer, cheapest first."""

    items: list[CreditPack]
