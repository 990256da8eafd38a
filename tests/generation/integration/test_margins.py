"""What attempts cost, whatever their end, and the report of it."""

import argparse
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from catalogue.gpu_cost import OVERHEAD, cost_micro_usd, usd_per_credit
from generation import commands
from generation.changes import save_changes
from generation.domain import lifecycle, provider_events
from generation.domain.gpu_use import GpuUse, record_use
from generation.domain.margins import EndpointCost
from generation.domain.provider_reports import JobFailed, OutputUploaded, Report
from generation.repository.fair_queue import ClaimedOrder
from generation.repository.margins import get_costs_by_endpoint, get_orders_by_size
from generation.repository.orders import lock_orders
from generation.runpod.client import BilledTime
from tests.generation.harness import GenerationHarness, order, stored
from tests.generation.provider import answering, responds

MODEL = "wan-2.2-t2v"
L4 = "NVIDIA L4"
ALWAYS = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"model": MODEL, "tier": "fast", **labels}) or 0


def uploaded(use: GpuUse) -> OutputUploaded:
    return OutputUploaded(job_id="job", size_bytes=1, sha256="ab", content_type="video/mp4", report=None, use=use)


def failed(use: GpuUse) -> JobFailed:
    return JobFailed(job_id="job", code="out_of_memory", detail="d", user_fault=False, use=use)


async def report(harness: GenerationHarness, claimed: ClaimedOrder, told: Report) -> None:
    async with harness.transactions.begin() as tx:
        locked = await lock_orders(tx.connection, [claimed.generation_id])
        one = locked.orders[claimed.generation_id]
        attempt = one.get_attempt(claimed.attempt_id)
        provider_events.submitted(one, attempt, claimed.fence_token, "job", harness.policy, locked.now)
        provider_events.reported(one, attempt, told, harness.policy, locked.now, locked.now)
        await save_changes(tx, locked, harness.wake_ups)


async def retry_at_once(harness: GenerationHarness, generation_id: UUID) -> ClaimedOrder:
    async with harness.transactions.begin() as tx:
        locked = await lock_orders(tx.connection, [generation_id])
        locked.orders[generation_id].ready = True
        await save_changes(tx, locked, harness.wake_ups)
    [claimed] = await harness.claim()
    return claimed


async def delivered_after_a_failure(harness: GenerationHarness) -> UUID:
    """One order whose first attempt ran out of memory, and whose second was delivered."""
    one = order(parameters={"prompt": "a lighthouse"}, price_credits=30)
    await harness.enqueue(one)
    [claimed] = await harness.claim()
    await report(harness, claimed, failed(GpuUse(gpu_type=L4, worker_id="w1", cold_start_ms=8_000, execution_ms=2_000)))
    second = await retry_at_once(harness, one.generation_id)
    await report(harness, second, uploaded(GpuUse(queue_ms=700, execution_ms=60_000)))
    await harness.deliver(harness.handlers.asset_stored, stored(second))
    return one.generation_id


async def test_every_attempt_is_priced_and_the_plan_is_kept(harness: GenerationHarness) -> None:
    generation_id = await delivered_after_a_failure(harness)
    tier = harness.catalogue.model(MODEL).default_tier
    first, second = await harness.attempts(generation_id)
    assert (first.worker_id, first.gpu_type, first.gpu_assumed, first.cold_start_ms) == ("w1", L4, False, 8_000)
    assert first.cost_micro_usd == cost_micro_usd(L4, 10_000)
    assert (second.queue_ms, second.gpu_type, second.gpu_assumed) == (700, tier.gpu_seconds.gpu, True)
    assert second.cost_micro_usd == cost_micro_usd(tier.gpu_seconds.gpu, 60_000)
    row = await harness.row(generation_id)
    assert (row.tier, row.planned_gpu) == (tier.id, tier.gpu_seconds.gpu)
    planned = tier.cost_usd(row.parameters) * (1 + OVERHEAD) * 1_000_000
    assert row.planned_cost_micro_usd == round(planned)


async def test_cost_and_revenue_are_counted_by_model_tier_and_end(harness: GenerationHarness) -> None:
    names = ("generation_gpu_cost_usd_total", "generation_gpu_seconds_total")
    before = {(name, status): counted(name, status=status) for name in names for status in ("failed", "succeeded")}
    revenue = counted("generation_revenue_usd_total")
    generation_id = await delivered_after_a_failure(harness)
    grown = {key: counted(key[0], status=key[1]) - old for key, old in before.items()}
    first, second = await harness.attempts(generation_id)
    assert grown[names[0], "failed"] == pytest.approx(first.cost_micro_usd / 1e6)
    assert grown[names[0], "succeeded"] == pytest.approx(second.cost_micro_usd / 1e6)
    assert (grown[names[1], "failed"], grown[names[1], "succeeded"]) == pytest.approx((2, 60))
    assert counted("generation_revenue_usd_total") - revenue == pytest.approx(float(30 * usd_per_credit()))


async def test_a_later_word_on_an_ended_attempt_adds_only_what_is_new(harness: GenerationHarness) -> None:
    one = order()
    await harness.enqueue(one)
    [claimed] = await harness.claim()
    before = counted("generation_gpu_seconds_total", status="failed")
    for seconds in (2, 5, 5, 3):
        await report(harness, claimed, failed(GpuUse(gpu_type=L4, execution_ms=seconds * 1_000)))
    assert counted("generation_gpu_seconds_total", status="failed") == pytest.approx(before + 5)
    [attempt] = await harness.attempts(one.generation_id)
    assert attempt.cost_micro_usd == cost_micro_usd(L4, 3_000)


async def test_what_a_users_cancel_throws_away_is_counted_and_other_ends_are_not(harness: GenerationHarness) -> None:
    one = order()
    await harness.enqueue(one)
    [first] = await harness.claim()
    before = counted("generation_cancelled_gpu_seconds_total")
    await report(harness, first, failed(GpuUse(gpu_type=L4, execution_ms=2_000)))
    second = await retry_at_once(harness, one.generation_id)
    async with harness.transactions.begin() as tx:
        locked = await lock_orders(tx.connection, [one.generation_id])
        running = locked.orders[one.generation_id]
        attempt = running.get_attempt(second.attempt_id)
        provider_events.submitted(running, attempt, second.fence_token, "job", harness.policy, locked.now)
        lifecycle.cancel(running, harness.policy, locked.now)
        lifecycle.provider_cancelled(running, attempt, locked.now)
        record_use(running, attempt, GpuUse(execution_ms=7_000))
        await save_changes(tx, locked, harness.wake_ups)
    assert counted("generation_cancelled_gpu_seconds_total") == pytest.approx(before + 7)


async def test_the_report_sets_revenue_against_every_attempt(harness: GenerationHarness) -> None:
    await delivered_after_a_failure(harness)
    cancelled = order()
    await harness.enqueue(cancelled)
    [claimed] = await harness.claim()
    await report(harness, claimed, failed(GpuUse(gpu_type=L4, execution_ms=1_000)))
    await harness.execute(
        "UPDATE generation.video_generations SET status = 'cancelled', finished_at = clock_timestamp(), ready = false"
        " WHERE generation_id = :id",
        id=cancelled.generation_id,
    )
    async with harness.engine.connect() as connection:
        [row] = await get_orders_by_size(connection, *ALWAYS)
        [endpoint] = await get_costs_by_endpoint(connection, *ALWAYS)
    assert (row.model_id, row.tier, row.orders, row.delivered, row.attempts) == (MODEL, "fast", 2, 1, 3)
    assert (row.assumed_attempts, row.captured_credits, row.planned_credits) == (1, 30, 60)
    gpu = harness.catalogue.model(MODEL).default_tier.gpu_seconds.gpu
    assert row.cost_micro_usd == cost_micro_usd(L4, 11_000) + cost_micro_usd(gpu, 60_000)
    assert row.margin == 1 - row.cost_usd / (30 * usd_per_credit())
    assert row.planned_margin is not None
    assert (endpoint.cost_micro_usd, endpoint.worker_ms) == (row.cost_micro_usd, 71_000)


async def test_the_command_prints_the_report_beside_runpods_bill(
    harness: GenerationHarness, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await delivered_after_a_failure(harness)
    monkeypatch.setenv("GENERATION_DATABASE_URL", harness.database.dsn("generation"))
    monkeypatch.delenv("GENERATION_RUNPOD_API_KEY", raising=False)
    parser = argparse.ArgumentParser()
    commands.add_parsers(parser.add_subparsers(dest="command"))
    day = datetime.now(UTC).date().isoformat()
    assert await commands.run(parser.parse_args(["margin", "--from", day])) == 0
    printed = capsys.readouterr().out
    assert MODEL in printed
    assert "RunPod's bill was not asked for" in printed
    monkeypatch.setenv("GENERATION_RUNPOD_API_KEY", "rpa_a_key")
    bill = responds(b'[{"endpointId": "video-id", "amount": 1.25, "timeBilledMs": 90000}]')
    async with answering() as (provider, _):
        monkeypatch.setenv("GENERATION_RUNPOD_REST_BASE", provider.url)
        provider.answers = defaultdict(lambda: bill)
        assert await commands.run(parser.parse_args(["margin", "--from", day])) == 0
    assert "1.2500" in capsys.readouterr().out


def test_an_endpoint_that_is_billed_without_orders_is_shown() -> None:
    ours = [EndpointCost("a", 500_000, 10_000)]
    twice = [BilledTime("a", Decimal("0.5"), 9_000), BilledTime("a", Decimal("0.2"), 1)]
    billed = [*twice, BilledTime("b", Decimal(1), 2)]
    compared = {one.endpoint_id: one.unexplained_usd for one in commands.compare(ours, billed)}
    assert {name: float(usd) for name, usd in compared.items() if usd is not None} == {"a": 0.2, "b": 1.0}
    assert commands.compare(ours, None) == ours


@pytest.mark.parametrize("written", ["2026-11-26T09:30:00", "yesterday"])
def test_a_time_without_a_zone_is_refused(written: str) -> None:
    parser = argparse.ArgumentParser()
    commands.add_parsers(parser.add_subparsers(dest="command"))
    with pytest.raises(SystemExit):
        parser.parse_args(["margin", "--from", written])


def test_the_report_is_of_yesterday_unless_told() -> None:
    parser = argparse.ArgumentParser()
    commands.add_parsers(parser.add_subparsers(dest="command"))
    begin = parser.parse_args(["margin"]).begin
    assert begin.date() == (datetime.now(UTC) - timedelta(days=1)).date()
    assert (begin.hour, begin.tzinfo) == (0, UTC)
