"""What a real platform tells after an order, a purchase and misuse.

Metrics have names, units, bounded labels and zeros; traces are whole; no secret comes out.
"""

import asyncio
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Final
from uuid import uuid4

import pytest
from prometheus_client import Metric

from catalogue import load_catalogue
from contracts.message import SERVICES
from contracts.registry import consumed_by
from local_platform.description import platform_directory
from service_runtime.indicators import INDICATORS
from tests.observability.canaries import CANARY, GIVE_ACCESS, found_in
from tests.observability.running import ROOT, Observed, observe
from tests.support.otlp import ReceivedSpan

Scraped = dict[str, dict[str, Metric]]

SERIES_LIMIT: Final = 2_500
"""Of one process. A label that users, orders or messages can grow would go past any limit."""
ORDER_COST: Final = ROOT / "docs" / "decisions" / "0051-what-an-order-costs.md"
VALUES_LIMIT: Final = 80
"""Of one label of one metric."""
LIBRARY_METRICS: Final = re.compile(r"^(process|python)_")
UNITLESS: Final = re.compile(
    r"_(info|unproven|held|violations|overdue|unsealed|number|open_verifications|writable|behind)$"
)
UNITS: Final = (
    *("seconds", "ratio", "bytes", "messages", "connections", "orders", "attempts", "workers", "credits"),
    *("streams", "reviews", "running", "verifications", "jobs"),
)
"""How the name of a gauge or histogram ends."""

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def observed() -> Iterator[Observed]:
    name = f"observed-{uuid4().hex[:8]}"
    yield asyncio.run(observe(name))
    shutil.rmtree(platform_directory(name, ROOT), ignore_errors=True)


@pytest.fixture(scope="module")
def scraped(observed: Observed) -> Scraped:
    return observed.metrics


def test_names_follow_the_conventions(scraped: Scraped) -> None:
    for service, metrics in scraped.items():
        for name, metric in metrics.items():
            if LIBRARY_METRICS.match(name):
                continue
            assert re.fullmatch(r"[a-z][a-z0-9_]*", name), (service, name)
            assert metric.documentation, (service, name)
            if metric.type in ("gauge", "histogram"):
                assert name.endswith(UNITS) or UNITLESS.search(name), f"{service}: {name} names no unit"


def test_no_label_grows_with_what_users_do(scraped: Scraped) -> None:
    identifier = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}|[0-9a-f]{32}|\d{6}")
    for service, metrics in scraped.items():
        samples = [sample for metric in metrics.values() for sample in metric.samples]
        assert len(samples) <= SERIES_LIMIT, f"{service} shows {len(samples)} series"
        for name, metric in metrics.items():
            values: dict[str, set[str]] = {}
            for sample in metric.samples:
                for label, value in sample.labels.items():
                    values.setdefault(label, set()).add(value)
                    assert not identifier.search(value) or label == "implementation", (service, name, label, value)
            for label, distinct in values.items():
                assert len(distinct) <= VALUES_LIMIT, f"{service}: {name}{{{label}}} has {len(distinct)} values"


def test_an_order_sends_no_more_to_the_database_than_is_recorded(observed: Observed) -> None:
    """The table in the decision counts each message in a transaction of its own: here some share one."""
    recorded = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \|", ORDER_COST.read_text(), re.MULTILINE)
    limits = {
        name: (int(statements), int(transactions)) for name, statements, transactions in recorded if name in SERVICES
    }
    sent = {name: (one.statements, len(one.transactions)) for name, one in observed.sent.items() if one.statements}
    assert sent.keys() == limits.keys(), sent
    for service, (statements, transactions) in sent.items():
        assert statements <= limits[service][0], sent
        assert transactions <= limits[service][1], sent


def test_a_first_dead_letter_of_any_message_is_an_increase(scraped: Scraped) -> None:
    for service in SERVICES:
        shown = {
            (sample.labels["subject"], sample.labels["reason"])
            for sample in scraped[service]["messaging_dead_letters"].samples
        }
        for message in consumed_by(service):
            assert {(message.subject, reason) for reason in ("early", "poison", "undecodable")} <= shown, service


def test_leased_work_that_never_failed_says_zero(scraped: Scraped) -> None:
    for service in ("storage", "generation", "payments"):
        assert scraped[service]["messaging_leased_work_failures"].samples
        assert scraped[service]["messaging_leases_lost"].samples


def test_every_service_says_what_it_is_and_how_its_pool_is_used(scraped: Scraped) -> None:
    for service in SERVICES:
        (build,) = scraped[service]["reelhouse_build_info"].samples
        assert build.labels["service"] == service
        assert build.labels["version"] not in ("", "unknown")
        assert _sum(scraped[service], "database_pool_limit_connections") > 0
        assert "database_pool_in_use_connections" in scraped[service]


def test_an_order_and_a_purchase_are_counted_where_they_pass(scraped: Scraped) -> None:
    by_movement = Counter(
        {sample.labels["movement"]: sample.value for sample in scraped["billing"]["billing_credits"].samples}
    )
    assert by_movement["granted"] == _sum(scraped["billing"], "billing_granted_credits") > 0
    assert by_movement["reserved"] == by_movement["captured"] + by_movement["released"] > 0
    assert by_movement["captured"] == _sum(scraped["generation"], "generation_delivered_credits")
    assert by_movement["expired"] == by_movement["owed"] == 0
    assert _sum(scraped["storage"], "storage_object_seconds", "_count") >= 2
    assert _sum(scraped["payments"], "payments_provider_events") >= 1
    assert _sum(scraped["generation"], "generation_callbacks_accepted") >= 1
    assert _sum(scraped["generation"], "generation_gpu_seconds") > 0
    assert _sum(scraped["generation"], "generation_gpu_cost_usd") > 0
    assert _sum(scraped["generation"], "generation_revenue_usd") > _sum(
        scraped["generation"], "generation_gpu_cost_usd"
    )


def test_every_indicator_has_counted_and_kept_its_promise(scraped: Scraped) -> None:
    for indicator in INDICATORS:
        metrics = scraped[indicator.service]
        assert _sum(metrics, "slo_events", slo=indicator.name) > 0, indicator.name
        assert _sum(metrics, "slo_events", slo=indicator.name) == _sum(metrics, "slo_good_events", slo=indicator.name)


def test_every_model_and_tier_says_zero_before_its_first_order(scraped: Scraped) -> None:
    tiers = {(model.id, tier.id) for model in load_catalogue().models for tier in model.tiers}
    for name in ("generation_gpu_cost_usd", "generation_gpu_seconds", "generation_revenue_usd"):
        shown = {(one.labels["model"], one.labels["tier"]) for one in scraped["generation"][name].samples}
        assert shown == tiers, name
    states = {one.labels["state"] for one in scraped["generation"]["generation_provider_workers"].samples}
    assert {"idle", "running", "throttled", "unhealthy"} <= states
    assert min(one.value for one in scraped["generation"]["generation_provider_max_workers"].samples) > 0


def test_an_empty_queue_says_zero(scraped: Scraped) -> None:
    generation = scraped["generation"]
    depths = {(s.labels["endpoint"], s.labels["lane"]) for s in generation["generation_queue_ready_orders"].samples}
    assert depths
    assert {lane for _, lane in depths} == {"free", "standard", "pro"}
    assert len(depths) == 3 * len({endpoint for endpoint, _ in depths})
    assert _sum(generation, "generation_callbacks_oldest_seconds") == 0
    assert "payments_due_oldest_seconds" in scraped["payments"]
    assert _sum(scraped["gateway"], "gateway_open_streams") == 0


def test_a_request_is_shown_with_its_trace(scraped: Scraped) -> None:
    buckets = scraped["gateway"]["http_request_seconds"].samples
    traces = {sample.exemplar.labels["trace_id"] for sample in buckets if sample.exemplar is not None}
    assert all(re.fullmatch(r"[0-9a-f]{32}", trace) for trace in traces)
    assert traces


def test_the_trace_of_an_order_is_whole(observed: Observed) -> None:
    spans = trace_about(observed, observed.bought.generation_id)
    assert {span.service for span in spans} == {"gateway", "billing", "generation", "storage", "auditor"}
    assert_names(
        spans,
        "POST /v1/generations",
        "create gateway.event.generation-requested.v1",
        "send gateway.event.generation-requested.v1",
        "process gateway.event.generation-requested.v1",
        "submit",
        "runpod run",
        "POST /webhooks/runpod/{attempt_id}/{token}",
        "apply provider reports",
        "work outputs",
        "s3 get",
        "decode",
        "s3 put",
        "transaction",
    )


def test_the_trace_of_a_payment_is_whole(observed: Observed) -> None:
    spans = trace_about(observed, observed.bought.payment_id)
    assert {span.service for span in spans} == {"gateway", "billing", "payments", "auditor"}
    assert_names(
        spans,
        "POST /v1/payments",
        "work polls-btcpay",
        "btcpay open_checkout",
        "btcpay look_up",
        "POST /webhooks/{provider_name}",
        "process billing.command.grant-credits.v1",
    )


def test_no_secret_comes_out_of_a_platform(observed: Observed) -> None:
    secrets = {"canary": re.escape(CANARY), **GIVE_ACCESS, **{n: re.escape(s) for n, s in observed.secrets.items()}}
    outputs = {
        **{f"log of {process}": text for process, text in observed.logs.items()},
        **{f"metrics of {service}": text for service, text in observed.misuse.metrics.items()},
        **{f"answer to {sent}": answer.text for sent, answer in observed.misuse.answers.items()},
        "traces": "\n".join(str(span) for span in observed.spans),
    }
    assert all(outputs.values())
    assert {name: found for name, text in outputs.items() if (found := found_in(text, secrets))} == {}
    # Nothing is found where nothing was looked at: each of these is redacted in a line that is there.
    assert "callback_refused" in observed.logs["generation"]
    assert "webhook_refused" in observed.logs["payments"]
    assert "unreadable_callback" in observed.logs["generation"]


def test_log_lines_say_where_they_belong(observed: Observed) -> None:
    for service in SERVICES:
        lines = [json.loads(line) for line in observed.logs[service].splitlines() if line.startswith("{")]
        assert {line["service"] for line in lines} == {service}
    requests = [
        line
        for line in map(json.loads, observed.logs["gateway"].splitlines())
        if line["event"] == "http_request" and line["path"] == "/v1/generations" and line["status"] == 201
    ]
    assert {line["user_id"] for line in requests} == {str(observed.bought.user_id)}
    assert observed.bought.generation_id in {line["correlation_id"] for line in requests}
    assert all(line["trace_id"] for line in requests)


def assert_names(spans: list[ReceivedSpan], *names: str) -> None:
    shown = sorted({span.name for span in spans})
    assert not set(names) - set(shown), f"not among {shown}"


def trace_about(observed: Observed, correlation_id: str) -> list[ReceivedSpan]:
    """Every span of the traces that concern an order or a payment, and of those that link to them.

    Each parent and each link that one of them names was received, too.
    """
    received = {(span.trace_id, span.span_id) for span in observed.spans}
    traces = {
        span.trace_id
        for span in observed.spans
        if span.attributes.get("messaging.message.conversation_id") == correlation_id and span.name.startswith("create")
    }
    assert len(traces) == 1, f"{correlation_id} has {len(traces)} traces"
    linked = {span.trace_id for span in observed.spans for trace_id, _ in span.links if trace_id in traces}
    spans = [span for span in observed.spans if span.trace_id in traces | linked]
    lost = [
        span
        for span in spans
        if (span.parent_id and (span.trace_id, span.parent_id) not in received) or set(span.links) - received
    ]
    assert lost == []
    assert not [span for span in spans if span.trace_id in traces and span.failed]
    return spans


def _sum(metrics: dict[str, Metric], name: str, suffix: str = "", **labels: str) -> float:
    """Over the samples that count: of a counter its total, of a histogram its ``_count``."""
    wanted = {name + suffix} if suffix else {name, f"{name}_total"}
    return sum(
        sample.value
        for sample in metrics[name].samples
        if sample.name in wanted and labels.items() <= sample.labels.items()
    )


def test_no_statement_reads_a_growing_table_whole(observed: Observed) -> None:
    found = [f"{one.service} reads {one.table} whole ({one.statistics}): {one.sql}" for one in observed.scans]
    assert not found, "\n\n".join(found)
