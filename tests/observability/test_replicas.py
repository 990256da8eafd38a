"""Figures that every replica reads from one database are not added up over the replicas."""

import re
from collections.abc import Iterator
from typing import Final

import pytest

from tests.observability.expressions import OBSERVABILITY, panel_queries, rules

OF_THE_PROCESS: Final = {
    "gateway_open_streams",
    "messaging_leased_work_running",
    "database_pool_in_use_connections",
    "database_pool_limit_connections",
    "reelhouse_build_info",
}
"""Gauges of which each replica has its own share: these are added up."""
GAUGE: Final = re.compile(r'Gauge\(\s*"([a-z_]+)"')
SUMMED: Final = r"\b(?:sum|avg|count)\b(?:\s*(?:by|without)\s*\([^)]*\))?\s*\(\s*(?:\w+_over_time\(\s*)?{name}\b"


def gauges() -> Iterator[str]:
    """The gauges of all services."""
    root = OBSERVABILITY.parents[1]
    for folder in ("libs", "services"):
        for source in (root / folder).glob("*/src/**/*.py"):
            yield from GAUGE.findall(source.read_text())


SHARED: Final = sorted(set(gauges()) - OF_THE_PROCESS)


def doubled(expr: str) -> list[str]:
    """The gauges of the database that ``expr`` adds up."""
    return [name for name in SHARED if re.search(SUMMED.format(name=name), expr)]


def test_no_panel_and_no_rule_adds_up_what_all_replicas_read() -> None:
    expressions = [query.expr for query in panel_queries()] + [rule["expr"] for rule in rules()]
    assert len(SHARED) > 20
    assert {expr: found for expr in expressions if (found := doubled(expr))} == {}


@pytest.mark.parametrize(
    "expr",
    [
        "sum(billing_postings_unsealed)",
        "sum by (status) (generation_open_orders)",
        "avg(min_over_time(payments_open_reviews[5m]))",
    ],
)
def test_a_sum_of_what_all_replicas_read_is_noticed(expr: str) -> None:
    assert doubled(expr)
