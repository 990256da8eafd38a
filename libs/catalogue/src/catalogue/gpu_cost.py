"""What GPU time costs us, and the one formula that makes a price of it.

    credits = seconds x USD per second x (1 + OVERHEAD) / ((1 - TARGET_MARGIN) x USD per credit)

``seconds`` are those of one execution on a warm worker, as ``Tier.gpu_seconds`` states them with their source.
"""

from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from importlib.resources import files
from math import ceil, floor
from typing import Final

import msgspec

from catalogue.credit_packs import load_credit_packs
from catalogue.pricing import PriceRule

OVERHEAD: Final = Fraction(1, 4)
"""Paid seconds that deliver nothing, as a share of those that do: cold starts, idle time-outs, retries.

An estimate; the billing report of the endpoint replaces it."""
TARGET_MARGIN: Final = Fraction(3, 5)
"""The share of the revenue that is left after the GPU: it pays for fees, storage, traffic and people."""
_FINEST_RATE: Final = 100
"""Rates are rounded up to hundredths of a credit, so that people can read them."""


class GpuType(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A GPU as the provider names it. ``usd_per_second`` is an exact decimal."""

    id: str
    vram_gb: int
    usd_per_second: str


class GpuSeconds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of ``gpu`` for one order, as rates like those of a price. ``source`` says where the numbers are from.

    ``estimate``: nobody measured them.
    """

    gpu: str
    source: str
    estimate: bool
    base: str = "0"
    per_megapixel: str = "0"
    per_megapixel_second: str = "0"


class _GpuTypes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    types: tuple[GpuType, ...]


@cache
def load_gpu_types() -> Mapping[str, GpuType]:
    """Every GPU type with its price, by id."""
    data = files("catalogue").joinpath("gpu_types.json").read_bytes()
    return {gpu.id: gpu for gpu in msgspec.json.decode(data, type=_GpuTypes).types}


def usd_per_second(gpu: str) -> Fraction:
    """The price of a running worker. Raises KeyError for a type that the data file does not have."""
    return Fraction(load_gpu_types()[gpu].usd_per_second)


def cost_micro_usd(gpu: str, milliseconds: int) -> int:
    """What a worker costs for so long, in millionths of a dollar, rounded half up. Raises KeyError as above."""
    return floor(usd_per_second(gpu) * milliseconds * 1000 + Fraction(1, 2))


@cache
def usd_per_credit() -> Fraction:
    """What a credit brings in at least: in the pack that gives the most credits for its price."""
    return min(Fraction(pack.price_cents, 100 * (pack.credits + pack.bonus_credits)) for pack in load_credit_packs())


@cache
def price_rule(seconds: GpuSeconds) -> PriceRule:
    """The rates of a price, by the formula above. Raises KeyError for an unknown GPU type."""
    credits_per_second = usd_per_second(seconds.gpu) * (1 + OVERHEAD) / ((1 - TARGET_MARGIN) * usd_per_credit())
    return PriceRule(
        base_credits=_rate(seconds.base, credits_per_second),
        per_megapixel_credits=_rate(seconds.per_megapixel, credits_per_second),
        per_megapixel_second_credits=_rate(seconds.per_megapixel_second, credits_per_second),
    )


def _rate(seconds: str, credits_per_second: Fraction) -> str:
    return str(Fraction(ceil(Fraction(seconds) * credits_per_second * _FINEST_RATE), _FINEST_RATE))
