"""The operator's report ``margin``: revenue against GPU cost, plan against fact, and our count against RunPod's bill.

It needs ``GENERATION_DATABASE_URL``, as any role that reads the schema, and works whether or not the service runs.
With ``GENERATION_RUNPOD_API_KEY`` it also asks for the bill.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from catalogue.gpu_cost import TARGET_MARGIN
from generation.domain.margins import EndpointCost, OrdersOfSize
from generation.repository.margins import MOST_ROWS, get_costs_by_endpoint, get_orders_by_size
from generation.runpod.client import BilledTime, ProviderUnavailable, RunPodClient
from generation.runpod.transport import AiohttpTransport
from generation.settings import CommandSettings
from service_runtime.database import engine_for
from service_runtime.settings import settings_from_environment

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_STATEMENT_TIMEOUT_MS: Final = 600_000
"""The report reads every order of its time."""
_CALL_SECONDS: Final = 60.0
_HEADINGS: Final = (
    *("model", "tier", "size", "orders", "delivered", "attempts", "assumed", "revenue $", "cost $"),
    *("margin", "planned", "target"),
)
_ENDPOINT_HEADINGS: Final = ("endpoint", "our GPU s", "our cost $", "billed s", "billed $", "difference $")


def add_parsers(commands: "Subparsers") -> None:
    """Declare the command and its arguments."""
    margin = commands.add_parser("margin", help="revenue against GPU cost, by model, tier and size")
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    margin.add_argument("--from", dest="begin", type=_time, default=_midnight(yesterday.isoformat()))
    margin.add_argument("--to", dest="end", type=_time, default=None, help="exclusive; by default a day after --from")


async def run(arguments: argparse.Namespace) -> int:
    """Print the report; returns the exit code: 1 if RunPod's bill was asked for and not answered."""
    begin, end = arguments.begin, arguments.end or arguments.begin + timedelta(days=1)
    settings = settings_from_environment(CommandSettings)
    engine = engine_for(
        settings.database_url.get_secret_value(),
        application_name="reelhouse-generation-margin",
        statement_timeout_ms=_STATEMENT_TIMEOUT_MS,
    )
    try:
        async with engine.connect() as connection:
            rows = await get_orders_by_size(connection, begin, end)
            costs = await get_costs_by_endpoint(connection, begin, end)
    finally:
        await engine.dispose()
    _print(f"Orders that ended from {begin.isoformat()} to before {end.isoformat()}\n")
    _print(render_table(_HEADINGS, [*map(_row, rows), _row(total(rows))], left=3))
    if len(rows) == MOST_ROWS:
        _print(f"There are more than {MOST_ROWS} sizes: ask for less time.")
    billed, refusal = await _ask_for_bill(settings, begin, end)
    _print("\nAttempts that ended in this time, against RunPod's bill\n")
    _print(render_table(_ENDPOINT_HEADINGS, [_endpoint_row(one) for one in compare(costs, billed)], left=1))
    _print(f"\n{refusal}" if refusal else "")
    return 1 if refusal and settings.runpod_api_key is not None else 0


def total(rows: Sequence[OrdersOfSize]) -> OrdersOfSize:
    """The sum of all rows."""
    return OrdersOfSize(
        model_id="all",
        tier="",
        width_pixels=0,
        height_pixels=0,
        duration_ms=None,
        orders=sum(row.orders for row in rows),
        delivered=sum(row.delivered for row in rows),
        captured_credits=sum(row.captured_credits for row in rows),
        attempts=sum(row.attempts for row in rows),
        assumed_attempts=sum(row.assumed_attempts for row in rows),
        cost_micro_usd=sum(row.cost_micro_usd for row in rows),
        planned_cost_micro_usd=sum(row.planned_cost_micro_usd for row in rows),
        planned_credits=sum(row.planned_credits for row in rows),
    )


def compare(costs: Sequence[EndpointCost], billed: Sequence[BilledTime] | None) -> list[EndpointCost]:
    """Our costs beside the bill. An endpoint that is billed and has no attempts stands there, too."""
    if billed is None:
        return list(costs)
    ours = {cost.endpoint_id: cost for cost in costs}
    compared = []
    for endpoint_id in sorted(ours.keys() | {line.endpoint_id for line in billed}):
        lines = [line for line in billed if line.endpoint_id == endpoint_id]
        cost = ours.get(endpoint_id, EndpointCost(endpoint_id, 0, 0))
        usd = sum((line.usd for line in lines), Decimal(0))
        compared.append(replace(cost, billed_usd=usd, billed_ms=sum(line.milliseconds for line in lines)))
    return compared


def render_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Aligned columns; the first ``left`` of them to the left."""
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(aligned).rstrip()

    return "\n".join([line(headings), line(["-" * width for width in widths]), *map(line, rows)])


async def _ask_for_bill(
    settings: CommandSettings, begin: datetime, end: datetime
) -> tuple[list[BilledTime] | None, str]:
    """The lines of the bill, or why there are none."""
    if settings.runpod_api_key is None:
        return None, "RunPod's bill was not asked for: GENERATION_RUNPOD_API_KEY is not set."
    key = settings.runpod_api_key.get_secret_value()
    async with AiohttpTransport(connections=1) as transport:
        client = RunPodClient(
            transport,
            "",
            key,
            timeout_seconds=_CALL_SECONDS,
            call_seconds=_CALL_SECONDS,
            rest_base=settings.runpod_rest_base,
        )
        try:
            return await client.billed(begin, end), ""
        except ProviderUnavailable as error:
            return None, f"RunPod's bill could not be read: {error}"


def _row(row: OrdersOfSize) -> tuple[str, ...]:
    return (
        row.model_id,
        row.tier,
        row.size if row.width_pixels else "",
        str(row.orders),
        str(row.delivered),
        str(row.attempts),
        str(row.assumed_attempts),
        _usd(row.revenue_usd),
        _usd(row.cost_usd),
        _share(row.margin),
        _share(row.planned_margin),
        _share(TARGET_MARGIN),
    )


def _endpoint_row(cost: EndpointCost) -> tuple[str, ...]:
    return (
        cost.endpoint_id,
        f"{cost.worker_ms / 1000:.1f}",
        _usd(cost.cost_usd),
        "-" if cost.billed_ms is None else f"{cost.billed_ms / 1000:.1f}",
        "-" if cost.billed_usd is None else _usd(Fraction(cost.billed_usd)),
        "-" if cost.unexplained_usd is None else _usd(cost.unexplained_usd),
    )


def _usd(amount: Fraction) -> str:
    return f"{float(amount):.4f}"


def _share(share: Fraction | None) -> str:
    return "-" if share is None else f"{float(share):.0%}"


def _time(written: str) -> datetime:
    """A day (UTC) or a time with its zone, in ISO 8601."""
    return _midnight(written) if len(written) == len("2026-11-26") else _zoned(datetime.fromisoformat(written))


def _midnight(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)


def _zoned(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise argparse.ArgumentTypeError("a time needs its zone: 2026-11-26T09:30:00Z")
    return time


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
