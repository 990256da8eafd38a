"""What orders brought in, and what is left after their GPU."""

from decimal import Decimal
from fractions import Fraction

import pytest

from generation.domain import margins
from generation.domain.margins import EndpointCost, OrdersOfSize


@pytest.fixture(autouse=True)
def a_credit_for_a_cent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packs' prices are data: these tests hold whatever they are."""
    monkeypatch.setattr(margins, "usd_per_credit", lambda: Fraction(1, 100))


def clips(
    *, captured: int = 0, cost: int = 0, planned_credits: int = 0, planned_cost: int = 0, duration_ms: int | None = 5000
) -> OrdersOfSize:
    """Ten ended orders of one size. Costs are in millionths of a dollar."""
    return OrdersOfSize(
        model_id="wan-2.2-text-to-video",
        tier="fast",
        width_pixels=832,
        height_pixels=480,
        duration_ms=duration_ms,
        orders=10,
        delivered=8,
        captured_credits=captured,
        attempts=13,
        assumed_attempts=1,
        cost_micro_usd=cost,
        planned_cost_micro_usd=planned_cost,
        planned_credits=planned_credits,
    )


@pytest.mark.parametrize(("duration_ms", "size"), [(None, "832x480"), (5000, "832x480, 5 s"), (2500, "832x480, 2.5 s")])
def test_a_size_is_written_as_in_the_catalogues_margins(duration_ms: int | None, size: str) -> None:
    assert clips(duration_ms=duration_ms).size == size


def test_the_revenue_is_of_the_credits_that_were_captured() -> None:
    assert clips(captured=10_001, planned_credits=99_999).revenue_usd == Fraction(10_001, 100)


@pytest.mark.parametrize(
    ("cost_usd", "margin"),
    [(0, Fraction(1)), (40, Fraction(3, 5)), (100, Fraction(0)), (150, Fraction(-1, 2))],
)
def test_the_margin_is_the_share_of_the_revenue_that_is_left(cost_usd: int, margin: Fraction) -> None:
    orders = clips(captured=10_000, cost=cost_usd * 1_000_000)
    assert orders.cost_usd == cost_usd
    assert orders.margin == margin


def test_the_planned_margin_is_of_the_plan_alone() -> None:
    orders = clips(captured=1, cost=999_000_000, planned_credits=10_000, planned_cost=40_000_000)
    assert orders.planned_margin == Fraction(3, 5)


def test_orders_that_brought_nothing_in_have_no_margin() -> None:
    orders = clips(captured=0, cost=5_000_000)
    assert orders.revenue_usd == 0
    assert orders.margin is None
    assert orders.planned_margin is None


def test_a_millionth_of_a_dollar_is_not_rounded_away() -> None:
    orders = clips(captured=10_000, cost=1)
    assert orders.margin == 1 - Fraction(1, 100_000_000)


def test_what_is_billed_beyond_our_count_is_unexplained() -> None:
    endpoint = EndpointCost("wan-id", 500_000, 10_000, billed_usd=Decimal("0.7"), billed_ms=14_000)
    assert endpoint.cost_usd == Fraction(1, 2)
    assert endpoint.unexplained_usd == Fraction(1, 5)


def test_a_bill_below_our_count_is_told_as_it_is() -> None:
    assert EndpointCost("wan-id", 500_000, 10_000, Decimal("0.4"), 8_000).unexplained_usd == Fraction(-1, 10)


def test_without_a_bill_nothing_is_unexplained() -> None:
    assert EndpointCost("wan-id", 500_000, 10_000).unexplained_usd is None
