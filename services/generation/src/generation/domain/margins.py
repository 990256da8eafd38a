"""What orders brought in, what their GPU cost, and what was planned. Exact, in dollars."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from catalogue.gpu_cost import usd_per_credit

_MICRO: int = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OrdersOfSize:
    """The ended orders of one model, tier and size. A delivered one is charged; the others cost GPU time, too.

    ``assumed_attempts``: of their GPU or their time nobody told, and the plan or our own clock was taken.
    """

    model_id: str
    tier: str
    width_pixels: int
    height_pixels: int
    duration_ms: int | None
    orders: int
    delivered: int
    captured_credits: int
    attempts: int
    assumed_attempts: int
    cost_micro_usd: int
    planned_cost_micro_usd: int
    planned_credits: int

    @property
    def size(self) -> str:
        """As the catalogue's margins write it."""
        size = f"{self.width_pixels}x{self.height_pixels}"
        return size if self.duration_ms is None else f"{size}, {self.duration_ms / 1000:g} s"

    @property
    def revenue_usd(self) -> Fraction:
        """The credits that were captured, at the least that a credit is sold for; before the fees of payments."""
        return self.captured_credits * usd_per_credit()

    @property
    def cost_usd(self) -> Fraction:
        """Every attempt, the failed and the cancelled included."""
        return Fraction(self.cost_micro_usd, _MICRO)

    @property
    def margin(self) -> Fraction | None:
        """The share of the revenue that is left after the GPU. None if nothing came in."""
        return _left(self.revenue_usd, self.cost_usd)

    @property
    def planned_margin(self) -> Fraction | None:
        """What the catalogue planned for these orders, its overhead included. None for orders without a plan."""
        return _left(self.planned_credits * usd_per_credit(), Fraction(self.planned_cost_micro_usd, _MICRO))


@dataclass(frozen=True, slots=True)
class EndpointCost:
    """What our attempts at one endpoint cost by our own count, and what the provider bills (None: not asked)."""

    endpoint_id: str
    cost_micro_usd: int
    worker_ms: int
    billed_usd: Decimal | None = None
    billed_ms: int | None = None

    @property
    def cost_usd(self) -> Fraction:
        """By our own count: what attempts took, without idle workers."""
        return Fraction(self.cost_micro_usd, _MICRO)

    @property
    def unexplained_usd(self) -> Fraction | None:
        """Billed beyond our count: idle workers, keep-alives, cold starts that no worker told of."""
        return None if self.billed_usd is None else Fraction(self.billed_usd) - self.cost_usd


def _left(revenue: Fraction, cost: Fraction) -> Fraction | None:
    return None if revenue == 0 else 1 - cost / revenue
