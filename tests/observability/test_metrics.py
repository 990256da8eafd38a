"""What Prometheus gets of a real platform after an order and a purchase: names, units, bounded labels, zeros."""

import asyncio
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest
from prometheus_client import Metric

from catalogue import load_catalogue
from contracts.message import SERVICES
from contracts.registry import consumed_by
from local_platform.description import platform_directory
from local_platform.supervisor import PlatformOptions, Supervisor
from service_runtime.indicators import INDICATORS
from tests.observability.scraping import buy_and_order, scrape

ROOT: Final = Path(__file__).parents[2]
Scraped = dict[str, dict[str, Metric]]

SERIES_LIMIT: Final = 2_500
"""Of one process. A label that users, orders or messages can grow would go past any limit."""
VALUES_LIMIT: Final = 80
"""Of one label of one metric."""
LIBRARY_METRICS: Final = re.compile(r"^(process|python)_")
UNITLESS: Final = re.compile(
    r"_(info|unproven|held|violations|overdue|unsealed|number|open_verifications|writable|behind)$"
)
UNITS: Final = (
    *("seconds", "bytes", "messages", "connections", "orders", "attempts", "workers", "credits"),
    *("streams", "reviews", "running", "verifications", "jobs"),
)
"""How the name of a gauge or histogram ends."""

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def scraped() -> Iterator[Scraped]:
    name = f"metrics-{uuid4().hex[:8]}"
    yield asyncio.run(_scraped(name))
    shutil.rmtree(platform_directory(name, ROOT), ignore_errors=True)


async def _scraped(name: str) -> Scraped:
    supervisor = Supervisor(PlatformOptions(name=name, root=ROOT, workers=1, follow_logs=False))
    try:
        platform = await supervisor.start()
        await buy_and_order(platform)
        return await scrape(platform)
    finally:
        await supervisor.stop()


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


def _sum(metrics: dict[str, Metric], name: str, suffix: str = "", **labels: str) -> float:
    """Over the samples that count: of a counter its total, of a histogram its ``_count``."""
    wanted = {name + suffix} if suffix else {name, f"{name}_total"}
    return sum(
        sample.value
        for sample in metrics[name].samples
        if sample.name in wanted and labels.items() <= sample.labels.items()
    )
