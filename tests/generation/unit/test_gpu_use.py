"""What an attempt took of a worker, and what that cost."""

from datetime import timedelta
from typing import Any

import pytest

from catalogue.gpu_cost import cost_micro_usd, load_gpu_types
from generation.domain.gpu_use import GpuUse, assume_use, record_use
from generation.domain.order import Order
from generation.domain.provider_events import reported
from generation.domain.provider_reports import JobFailed, JobLost, Report
from generation.domain.statuses import AttemptStatus
from tests.generation.domain_orders import NOW, POLICY, order, uploaded

L4 = "NVIDIA L4"
PLANNED: dict[str, Any] = {"tier": "fast", "planned_gpu": "NVIDIA A40", "planned_cost_micro_usd": 1_000}


def one(status: AttemptStatus = "running") -> Order:
    return order("running", status, **PLANNED)


def test_the_price_is_exact_to_a_millionth_of_a_dollar() -> None:
    assert cost_micro_usd(L4, 1_500) == 285  # 0.00019 $ x 1.5 s
    assert cost_micro_usd(L4, 0) == 0
    assert [cost_micro_usd(L4, ms) for ms in (2, 3)] == [0, 1]  # 0.38 and 0.57
    assert all(cost_micro_usd(gpu, 1_000_000) > 0 for gpu in load_gpu_types())


def test_what_the_worker_says_is_priced_and_a_cold_start_is_paid() -> None:
    running = one()
    use = GpuUse(worker_id="w", gpu_type=L4, queue_ms=9_000, cold_start_ms=8_000, execution_ms=2_000)
    record_use(running, running.attempts[0], use)
    attempt = running.attempts[0]
    assert (attempt.worker_id, attempt.gpu_type) == ("w", L4)
    assert (attempt.gpu_assumed, attempt.execution_assumed) == (False, False)
    assert (attempt.queue_ms, attempt.cost_micro_usd) == (9_000, cost_micro_usd(L4, 10_000))


@pytest.mark.parametrize("gpu", [None, "none", "NVIDIA GeForce RTX 9999"])
def test_an_unknown_gpu_is_the_planned_one_and_marked(gpu: str | None) -> None:
    running = one()
    record_use(running, running.attempts[0], GpuUse(gpu_type=gpu, execution_ms=2_000))
    attempt = running.attempts[0]
    assert (attempt.gpu_type, attempt.gpu_assumed) == ("NVIDIA A40", True)
    assert attempt.cost_micro_usd == cost_micro_usd("NVIDIA A40", 2_000)


def test_without_a_plan_and_a_name_the_cost_stays_unknown() -> None:
    running = order("running", "running")
    record_use(running, running.attempts[0], GpuUse(execution_ms=2_000))
    assert (running.attempts[0].gpu_type, running.attempts[0].cost_micro_usd) == (None, None)


def test_a_later_word_replaces_an_assumption_and_silence_replaces_nothing() -> None:
    running = one()
    attempt = running.attempts[0]
    attempt.started_at = NOW
    attempt.end("cancelled", NOW + timedelta(seconds=5))
    assume_use(running, attempt)
    assert (attempt.execution_ms, attempt.execution_assumed, attempt.gpu_assumed) == (5_000, True, True)
    record_use(running, attempt, GpuUse(gpu_type=L4, execution_ms=4_200))
    record_use(running, attempt, GpuUse())
    assert (attempt.execution_ms, attempt.execution_assumed) == (4_200, False)
    assert attempt.cost_micro_usd == cost_micro_usd(L4, 4_200)


def test_the_clock_does_not_outweigh_what_the_provider_said() -> None:
    running = one()
    attempt = running.attempts[0]
    attempt.started_at = NOW
    record_use(running, attempt, GpuUse(gpu_type=L4, execution_ms=4_200))
    attempt.end("lost", NOW + timedelta(seconds=60))
    assume_use(running, attempt)
    assert (attempt.execution_ms, attempt.execution_assumed) == (4_200, False)
    assert attempt.cost_micro_usd == cost_micro_usd(L4, 4_200)


def test_an_assumed_time_is_no_longer_than_the_model_may_run() -> None:
    running = one()
    attempt = running.attempts[0]
    attempt.started_at = NOW
    attempt.end("lost", NOW + timedelta(days=1))
    assume_use(running, attempt)
    assert attempt.execution_ms == running.execution_timeout_seconds * 1_000


def test_an_attempt_that_no_worker_began_costs_nothing() -> None:
    running = one("submitted")
    running.attempts[0].end("cancelled", NOW)
    assume_use(running, running.attempts[0])
    assert (running.attempts[0].execution_ms, running.attempts[0].cost_micro_usd) == (None, None)


USE = GpuUse(gpu_type=L4, execution_ms=2_000)


@pytest.mark.parametrize(
    "report",
    [
        JobFailed(job_id="job-1", code="out_of_memory", detail="d", user_fault=False, use=USE),
        JobFailed(job_id="job-1", code="invalid_input", detail="d", user_fault=True, use=USE),
        JobLost(job_id="job-1", code="execution_timeout", detail="d", use=USE),
    ],
)
@pytest.mark.parametrize("status", ["running", "cancelled", "lost"])
def test_every_end_costs_and_a_late_report_too(status: AttemptStatus, report: Report) -> None:
    running = one(status)
    reported(running, running.attempts[0], report, POLICY, NOW, None)
    assert running.attempts[0].cost_micro_usd == cost_micro_usd(L4, 2_000)


def test_a_success_carries_its_time_to_the_order() -> None:
    running = one()
    reported(running, running.attempts[0], uploaded(), POLICY, NOW, NOW)
    assert running.attempts[0].worker_seconds == 1.5
