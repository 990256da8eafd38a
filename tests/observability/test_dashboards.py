"""Every dashboard is current, and says what it shows: title, description, unit, a data source that can be chosen."""

import re
from typing import Any, Final

import promql_parser
import pytest

from deploy.observability.__main__ import generated
from tests.deploy.manifests import KUBERNETES, of_kind, render
from tests.observability.expressions import boards, filled, panel_queries, panels

QUERIES: Final = panel_queries()
CUMULATIVE: Final = re.compile(r"[a-z_]+(?:_total|_bucket|_count|_sum)\b")
RANGED: Final = re.compile(r"(?:rate|increase)\(\s*$")
PANELS: Final = [pytest.param(panel, id=f"{name}: {panel['title']}") for name, panel in panels()]


@pytest.mark.parametrize(("path", "text"), generated().items(), ids=lambda one: getattr(one, "name", ""))
def test_what_is_generated_is_current(path: Any, text: str) -> None:
    assert path.read_text() == text, "run `make dashboards`"


@pytest.mark.parametrize("name", boards())
def test_the_reader_chooses_the_data_source(name: str) -> None:
    board = boards()[name]
    assert board["description"]
    variables = {one["name"]: one["type"] for one in board["templating"]["list"]}
    assert variables["datasource"] == "datasource"
    for panel in board["panels"]:
        for source in [panel["datasource"]] if panel["type"] != "row" else []:
            assert source["uid"] in ("${datasource}", "${postgres}")
            assert variables[source["uid"][2:-1]] == "datasource"


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_explains_itself(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.board}: {query.title}")
def test_a_query_is_valid_and_takes_rates_of_counters(query: Any) -> None:
    promql_parser.parse(filled(query.expr))
    for metric in CUMULATIVE.finditer(query.expr):
        assert RANGED.search(query.expr[: metric.start()]), f"{metric.group()} is shown as it grows"
    windows = set(re.findall(r"\[([^\]]+)\]", query.expr))
    assert windows <= {"$__rate_interval", "$__range"}, "a fixed window does not fit every zoom"


def test_kubernetes_gets_every_dashboard_as_a_labelled_config_map() -> None:
    maps = of_kind(render(KUBERNETES / "overlays/production"), "ConfigMap").values()
    labelled = [one for one in maps if one["metadata"].get("labels", {}).get("grafana_dashboard") == "1"]
    assert sorted(name for one in labelled for name in one["data"]) == sorted(boards())
