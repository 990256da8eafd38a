"""The credit packs that can be bought. The data file is the only source of their prices and credits."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Final

import msgspec

WITHOUT_CENTS: Final = frozenset(
    currency
    for listed in ("bif clp djf gnf jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf", "bhd iqd jod kwd lyd omr tnd")
    for currency in listed.split()
)
"""Currencies whose smallest unit is not a hundredth (ISO 4217): crypto providers are told prices in whole units."""


MOST_CREDITS: Final = 1_000_000_000
"""Of a pack, and the highest price of an order: billing moves no larger amount."""
MOST_CENTS: Final = 100_000_000
"""A million of a currency with cents."""


class CreditPack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price and the credits for it. ``price_cents`` is in the smallest unit of ``currency`` (ISO 4217, lower)."""

    id: str
    title: str
    price_cents: int
    currency: str
    credits: int
    bonus_credits: int


class InvalidCreditPacks(Exception):
    """The data file contradicts itself."""


def load_credit_packs() -> tuple[CreditPack, ...]:
    """Every pack on offer, cheapest first. Raises ``InvalidCreditPacks`` if the data file contradicts itself."""
    data = files("catalogue").joinpath("credit_packs.json").read_bytes()
    packs = msgspec.json.decode(data, type=tuple[CreditPack, ...])
    check_credit_packs(packs)
    return tuple(sorted(packs, key=lambda pack: pack.price_cents))


def check_credit_packs(packs: Sequence[CreditPack]) -> None:
    """Raise ``InvalidCreditPacks`` for a pack that could not be sold, paid or credited."""
    if len({pack.id for pack in packs}) != len(packs):
        raise InvalidCreditPacks("two packs have the same id")
    for pack in packs:
        if (
            not 0 < pack.price_cents <= MOST_CENTS
            or pack.credits <= 0
            or pack.bonus_credits < 0
            or pack.credits + pack.bonus_credits > MOST_CREDITS
            or pack.currency != pack.currency.lower()
            or pack.currency in WITHOUT_CENTS
        ):
            raise InvalidCreditPacks(f"pack '{pack.id}' has an impossible price, currency or number of credits")
