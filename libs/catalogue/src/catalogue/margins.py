"""``python -m catalogue margin``: price, GPU cost and margin for each model, tier and size."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rich.console import Console
from rich.table import Table

from catalogue.gpu_cost import OVERHEAD, TARGET_MARGIN, load_gpu_types, usd_per_credit
from catalogue.loading import Catalogue
from catalogue.model import Model, Tier


@dataclass(frozen=True, slots=True)
class Margin:
    """One order: what it brings in, in the cheapest credits, and what its GPU costs, overhead included."""

    model_id: str
    tier: str
    size: str
    gpu: str
    gpu_seconds: Fraction
    price_credits: int
    cost_usd: Fraction
    estimate: bool

    @property
    def revenue_usd(self) -> Fraction:
        """Before the fees of payments."""
        return self.price_credits * usd_per_credit()

    @property
    def share(self) -> Fraction:
        """What is left of the revenue after the GPU."""
        return 1 - self.cost_usd / self.revenue_usd


def margins(catalogue: Catalogue) -> Iterator[Margin]:
    """Every offered model and tier, at its smallest, default and largest size."""
    for model in catalogue.offered:
        for tier in model.tiers:
            for parameters in _sizes(model, tier):
                yield Margin(
                    model_id=model.id,
                    tier=tier.id,
                    size=_size(parameters),
                    gpu=tier.gpu_seconds.gpu,
                    gpu_seconds=tier.seconds(parameters),
                    price_credits=model.quote(parameters).price_credits,
                    cost_usd=tier.cost_usd(parameters) * (1 + OVERHEAD),
                    estimate=tier.gpu_seconds.estimate,
                )


def print_margins(catalogue: Catalogue) -> None:
    """A table in a terminal, plain lines in a pipe."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    table = Table(box=None, pad_edge=False, title=None)
    for name in ("model", "tier", "size"):
        table.add_column(name, no_wrap=True)
    for name in ("GPU s", "cost $", "credits", "revenue $", "margin"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("GPU", no_wrap=True)
    table.add_column("seconds", no_wrap=True)
    for row in margins(catalogue):
        table.add_row(
            row.model_id,
            row.tier,
            row.size,
            f"{float(row.gpu_seconds):.1f}",
            f"{float(row.cost_usd):.4f}",
            str(row.price_credits),
            f"{float(row.revenue_usd):.4f}",
            f"{float(row.share):.0%}",
            row.gpu.removeprefix("NVIDIA "),
            "estimate" if row.estimate else "published",
        )
    console.print(table)
    console.print(
        f"\nA credit brings in {100 * float(usd_per_credit()):.3f} cents at least. "
        f"Overhead {float(OVERHEAD):.0%} (estimate), target margin {float(TARGET_MARGIN):.0%}; "
        f"{len(load_gpu_types())} GPU prices from gpu_types.json.",
        highlight=False,
        soft_wrap=True,
    )
    sources = {(m.id, t.id): t.gpu_seconds.source for m in catalogue.offered for t in m.tiers}
    for (model_id, tier_id), source in sources.items():
        console.print(f"{model_id} {tier_id}: {source}", highlight=False, soft_wrap=True)


def _sizes(model: Model, tier: Tier) -> Iterator[dict[str, Any]]:
    """Complete enough to be priced: the smallest, the default and the largest order of a tier."""
    properties = model.parameters_schema["properties"]
    steps = {}
    if "steps" in properties:
        allowed = properties["steps"].get("enum", range(properties["steps"]["minimum"], properties["steps"]["maximum"]))
        mine = [number for number in allowed if model.tier({"steps": number}) is tier]
        default = model.defaults["steps"]
        steps = {"steps": default if default in mine else mine[0]}
    default_order = model.defaults | steps
    yield _within(model, default_order | {name: properties[name]["minimum"] for name in _measures(model)})
    yield default_order
    yield _within(model, default_order | {name: properties[name]["maximum"] for name in _measures(model)})


def _measures(model: Model) -> tuple[str, ...]:
    properties = model.parameters_schema["properties"]
    return tuple(name for name in ("width", "height", "duration_seconds") if name in properties)


def _within(model: Model, parameters: dict[str, Any]) -> dict[str, Any]:
    """The height made smaller until the model takes the order."""
    step = model.parameters_schema["properties"]["height"].get("multipleOf", 1)
    tallest = model.limits.max_pixels // parameters["width"] // step * step
    return parameters | {"height": min(parameters["height"], tallest)}


def _size(parameters: dict[str, Any]) -> str:
    size = f"{parameters['width']}x{parameters['height']}"
    seconds = parameters.get("duration_seconds")
    steps = parameters.get("steps")
    return size + (f", {seconds} s" if seconds else "") + (f", {steps} steps" if steps else "")
