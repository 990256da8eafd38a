"""From parameters to a price: exact fractions, summed, and rounded up once to whole credits."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any, Final

import msgspec

PIXELS_PER_MEGAPIXEL: Final = 1_000_000


@dataclass(frozen=True)
class QuoteLine:
    """One part of a price, in whole credits."""

    label: str
    credits: int


@dataclass(frozen=True)
class Quote:
    """A price and the parts that add up to it."""

    price_credits: int
    lines: tuple[QuoteLine, ...]


class ResolutionTier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Outputs of up to so many pixels cost ``factor`` (an exact fraction, at least 1) times the sum of the rates."""

    label: str
    up_to_pixels: int
    factor: str


class StepsSurcharge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``included`` steps are free of surcharge; each further one adds this share (an exact fraction) of the price."""

    included: int
    share_per_extra_step: str


class Surcharges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Factors on the sum of the rates: the resolution first, then the steps. Tiers are in growing order."""

    resolutions: tuple[ResolutionTier, ...] = ()
    steps: StepsSurcharge | None = None

    def tier(self, pixels: int) -> ResolutionTier | None:
        """The tier of an output; None if the model has no tiers. The last tier also holds larger outputs."""
        fitting = (tier for tier in self.resolutions if pixels <= tier.up_to_pixels)
        return next(fitting, self.resolutions[-1] if self.resolutions else None)


class PriceRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rates in credits, written as exact fractions (``"4"``, ``"3/2"``). A rate that is not given is zero."""

    base_credits: str = "0"
    per_second_credits: str = "0"
    per_megapixel_credits: str = "0"
    per_megapixel_second_credits: str = "0"

    def quote(self, parameters: dict[str, Any], surcharges: Surcharges = Surcharges()) -> Quote:  # noqa: B008 - frozen
        """Price complete parameters. The sum is rounded up to a whole credit, and is never less than one."""
        lines: list[QuoteLine] = []
        exact, shown = Fraction(0), 0
        for label, part in self._parts(parameters, surcharges):
            exact += part
            # Each line shows what it adds to the rounded sum, so that the lines always add up to the price.
            if ceil(exact) > shown:
                lines.append(QuoteLine(label, ceil(exact) - shown))
                shown = ceil(exact)
        if shown == 0:
            lines, shown = [QuoteLine("minimum", 1)], 1
        return Quote(shown, tuple(lines))

    def exact(self, parameters: dict[str, Any], surcharges: Surcharges) -> Fraction:
        """The sum before it is rounded."""
        return sum((part for _, part in self._parts(parameters, surcharges)), Fraction(0))

    def _parts(self, parameters: dict[str, Any], surcharges: Surcharges) -> Iterator[tuple[str, Fraction]]:
        pixels = parameters["width"] * parameters["height"]
        megapixels = Fraction(pixels, PIXELS_PER_MEGAPIXEL)
        seconds = Fraction(parameters.get("duration_seconds", 0))
        rates = (
            ("base", Fraction(self.base_credits)),
            ("length", Fraction(self.per_second_credits) * seconds),
            ("size", Fraction(self.per_megapixel_credits) * megapixels),
            ("size and length", Fraction(self.per_megapixel_second_credits) * megapixels * seconds),
        )
        yield from rates
        total = sum((part for _, part in rates), Fraction(0))
        tier = surcharges.tier(pixels)
        if tier is not None:
            extra = total * (Fraction(tier.factor) - 1)
            yield tier.label, extra
            total += extra
        if surcharges.steps is not None:
            extra_steps = max(0, parameters["steps"] - surcharges.steps.included)
            yield "extra steps", total * extra_steps * Fraction(surcharges.steps.share_per_extra_step)
