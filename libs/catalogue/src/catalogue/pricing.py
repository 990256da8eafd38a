"""From parameters to a price: exact fractions, summed, and rounded up once to whole credits."""

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


class PriceRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rates in credits, written as exact fractions (``"4"``, ``"3/2"``). What a rule does not name costs nothing."""

    base_credits: str = "0"
    per_second_credits: str = "0"
    per_megapixel_credits: str = "0"
    per_megapixel_second_credits: str = "0"

    def quote(self, parameters: dict[str, Any]) -> Quote:
        """Price complete parameters. The sum is rounded up to a whole credit, and is never less than one."""
        megapixels = Fraction(parameters["width"] * parameters["height"], PIXELS_PER_MEGAPIXEL)
        seconds = Fraction(parameters.get("duration_seconds", 0))
        parts = (
            ("base", Fraction(self.base_credits)),
            ("length", Fraction(self.per_second_credits) * seconds),
            ("size", Fraction(self.per_megapixel_credits) * megapixels),
            ("size and length", Fraction(self.per_megapixel_second_credits) * megapixels * seconds),
        )
        lines: list[QuoteLine] = []
        exact, shown = Fraction(0), 0
        for label, part in parts:
            exact += part
            # Each line shows what it adds to the rounded sum, so that the lines always add up to the price.
            if ceil(exact) > shown:
                lines.append(QuoteLine(label, ceil(exact) - shown))
                shown = ceil(exact)
        if shown == 0:
            lines, shown = [QuoteLine("minimum", 1)], 1
        return Quote(shown, tuple(lines))
