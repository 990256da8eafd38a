"""The process is killed at each failpoint in turn; the next one finishes the work, charges once and loses nothing."""

import asyncio

import pytest

from contracts.generation import GenerationCancelled, GenerationCompleted
from generation.settings import Settings
from tests.generation.harness import order
from tests.generation.service_harness import ServiceHarness
from tests.generation.worker import fall_silent
from tests.support.service_processes import service_process
from tests.support.waiting import eventually

SHIPPED_TIMERS = ("lease_seconds", "ambiguous_wait_seconds", "runpod_timeout_seconds", "poll_seconds")
UNSENT_FAILPOINTS = ("dispatcher.after_claim", "dispatcher.before_mark")
ORDER_FAILPOINTS = (
    *UNSENT_FAILPOINTS,
    "dispatcher.after_mark",
    "dispatcher.before_run",
    "dispatcher.after_run",
    "dispatcher.before_record",
    "dispatcher.after_record",
    "ingress.before_store",
    "ingress.after_store",
    "callbacks.before_commit",
    "callbacks.after_commit",
)


@pytest.mark.parametrize("failpoint", ORDER_FAILPOINTS)
async def test_an_order_survives_a_kill_at_any_point(service: ServiceHarness, failpoint: str) -> None:
    settings = service.settings(drain_seconds=5.0)
    one = order()
    async with service_process(settings, failpoint) as doomed:
        await service.peers.fund(one)
        await asyncio.wait_for(doomed.wait(), 30)
        assert doomed.returncode == -9
    async with service_process(settings):
        completed = await service.peers.until(one, GenerationCompleted, timeout=40)
    assert not completed.late
    assert service.peers.count(one, GenerationCompleted) == 1
    assert len(service.worker.taken) <= 2


@pytest.mark.parametrize("failpoint", UNSENT_FAILPOINTS)
async def test_an_order_that_was_not_sent_goes_again_soon_with_the_timers_that_are_shipped(
    service: ServiceHarness, failpoint: str
) -> None:
    shipped = {name: Settings.model_fields[name].default for name in SHIPPED_TIMERS}
    settings = service.settings(drain_seconds=5.0, **shipped)
    one = order()
    async with service_process(settings, failpoint) as doomed:
        await service.peers.fund(one)
        await asyncio.wait_for(doomed.wait(), 30)
    async with service_process(settings):
        await service.peers.until(one, GenerationCompleted, timeout=40)
    assert len(service.worker.taken) == 1


@pytest.mark.parametrize("failpoint", ["attempt_checks.before_cancel", "attempt_checks.after_cancel"])
async def test_a_cancel_survives_a_kill_before_and_after_the_provider_is_told(
    service: ServiceHarness, failpoint: str
) -> None:
    service.worker.work = fall_silent
    settings = service.settings(drain_seconds=5.0)
    one = order()
    async with service_process(settings, failpoint) as doomed:
        await service.peers.fund(one)
        await eventually(lambda: service.worker.taken, 20)
        await service.peers.cancel(one)
        await asyncio.wait_for(doomed.wait(), 30)
    async with service_process(settings):
        await service.peers.until(one, GenerationCancelled, timeout=40)
    assert [job["status"] for job in await service.emulator.jobs()] == ["CANCELLED"]
