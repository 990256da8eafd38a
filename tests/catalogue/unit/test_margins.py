"""Prices follow from GPU seconds by one formula, and no order is sold below its cost."""

from fractions import Fraction
from typing import Any

import pytest

from catalogue import load_catalogue
from catalogue.credit_packs import load_credit_packs
from catalogue.gpu_cost import OVERHEAD, TARGET_MARGIN, GpuSeconds, load_gpu_types, price_rule, usd_per_credit
from catalogue.margins import margins

CATALOGUE = load_catalogue()

PUBLISHED: tuple[tuple[dict[str, Any], int], ...] = (({"steps": 20}, 513), ({"steps": 4}, 71))
"""Seconds of Wan 2.2 14B on one RTX 4090, 640x640, 81 frames, warm."""


@pytest.mark.parametrize(("chosen", "seconds"), PUBLISHED)
def test_stated_seconds_are_the_published_ones(chosen: dict[str, Any], seconds: int) -> None:
    model = CATALOGUE.model("wan-2.2-t2v")
    order = model.complete({"prompt": "x", "width": 640, "height": 640, "duration_seconds": 5} | chosen)
    tier = model.tier(order)
    assert (tier.gpu_seconds.gpu, tier.gpu_seconds.estimate) == ("NVIDIA GeForce RTX 4090", False)
    assert abs(tier.seconds(order) - seconds) < 1


def test_no_order_is_sold_for_less_than_the_target_margin() -> None:
    rows = list(margins(CATALOGUE))
    assert {row.model_id for row in rows} == {model.id for model in CATALOGUE.offered}
    for row in rows:
        assert row.share >= TARGET_MARGIN, row


def test_a_price_is_the_cost_over_what_the_margin_leaves() -> None:
    rule = price_rule(GpuSeconds(gpu="NVIDIA GeForce RTX 4090", source="a test", estimate=True, base="100"))
    cost = 100 * Fraction("0.00031") * (1 + OVERHEAD)
    exact = cost / (1 - TARGET_MARGIN) / usd_per_credit()
    assert exact <= Fraction(rule.base_credits) < exact + Fraction(1, 100)
    assert (rule.per_megapixel_credits, rule.per_megapixel_second_credits) == ("0", "0")


def test_a_credit_is_worth_what_the_most_generous_pack_takes_for_it() -> None:
    assert usd_per_credit() == min(
        Fraction(pack.price_cents, 100) / (pack.credits + pack.bonus_credits) for pack in load_credit_packs()
    )


def test_every_model_runs_on_a_gpu_of_its_class() -> None:
    gpus = load_gpu_types()
    for model in CATALOGUE.models:
        for tier in model.tiers:
            assert gpus[tier.gpu_seconds.gpu].vram_gb >= model.vram_gb, model.id
            assert tier.gpu_seconds.source
