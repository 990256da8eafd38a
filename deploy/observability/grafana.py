"""A board as Grafana reads it (dashboard JSON v1, which Grafana 11 and 12 load)."""

from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef

from deploy.observability.panels import Board, Panel

METRICS: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
ROWS: Final = DataSourceRef(type_val="grafana-postgresql-datasource", uid="${postgres}")
HEIGHT: Final = 8

Drawn = timeseries.Panel | stat.Panel | table.Panel


def render(board: Board) -> str:
    """The JSON of ``board``. The same board gives the same text."""
    drawn = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["reelhouse"])
        .time(board.since, "now")
        .refresh("30s")
        .timezone("browser")
        .editable()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Metrics").type("prometheus"))
    )
    if any(panel.kind == "rows" for panel in board.panels):
        rows = dashboard.DatasourceVariable("postgres").label("Database").type("grafana-postgresql-datasource")
        drawn = drawn.with_variable(rows)
    for one in board.inputs:
        drawn = drawn.with_variable(
            dashboard.TextBoxVariable(one.name).label(one.label).description(one.description).default_value(one.default)
        )
    for row in board.rows:
        drawn = drawn.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            drawn = drawn.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(drawn.build()) + "\n"


def _panel(panel: Panel) -> Drawn:
    drawn = _empty(panel)
    drawn = drawn.title(panel.title).description(panel.description).unit(panel.unit)
    drawn = drawn.span(panel.width).height(HEIGHT).datasource(ROWS if panel.kind == "rows" else METRICS)
    for index, query in enumerate(panel.queries):
        ref = chr(ord("A") + index)
        drawn = drawn.with_target(
            _sql(query.expr, ref) if panel.kind == "rows" else _promql(panel, query.expr, ref, query.legend)
        )
    return drawn


def _empty(panel: Panel) -> Drawn:
    if panel.kind == "timeseries":
        return timeseries.Panel().min(0).fill_opacity(10).legend(common.VizLegendOptions().show_legend(True))
    if panel.kind == "stat":
        return stat.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return table.Panel()


def _promql(panel: Panel, expr: str, ref: str, legend: str) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expr).ref_id(ref).legend_format(legend or "__auto").datasource(METRICS)
    if panel.kind == "timeseries":
        return query.range_val() if hasattr(query, "range_val") else query.range()
    return query.instant()


class _Sql(variants.Dataquery, Builder["_Sql"]):
    """A query of Grafana's PostgreSQL data source, which the SDK has no model of."""

    def __init__(self, sql: str, ref: str) -> None:
        self._sql = sql
        self._ref = ref

    def build(self) -> "_Sql":
        return self

    def to_json(self) -> dict[str, Any]:
        source = {"type": ROWS.type_val, "uid": ROWS.uid}
        return {"datasource": source, "format": "table", "rawQuery": True, "rawSql": self._sql, "refId": self._ref}


def _sql(sql: str, ref: str) -> _Sql:
    return _Sql(sql, ref)
