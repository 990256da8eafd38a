"""The process is killed at each failpoint in turn; the next one finishes the work, charges once and loses nothing."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from pydantic import SecretStr

from contracts.generation import GenerationCancelled, GenerationCompleted
from generation.settings import Settings
from messaging.failpoints import VARIABLE
from tests.generation.harness import order
from tests.generation.service_harness import ServiceHarness
from tests.generation.worker import fall_silent
from tests.support.waiting import eventually

ORDER_FAILPOINTS = (
    "dispatcher.after_claim",
    "dispatcher.before_run",
    "dispatcher.after_run",
    "dispatcher.before_record",
    "dispatcher.after_record",
    "ingress.before_store",
    "ingress.after_store",
    "callbacks.before_commit",
    "callbacks.after_commit",
)


def environment(settings: Settings, failpoint: str | None) -> dict[str, str]:
    values = settings.model_dump(mode="python", exclude_none=True)
    plain = {f"GENERATION_{name.upper()}": as_variable(value) for name, value in values.items()}
    return {"PATH": os.environ["PATH"], **plain} | ({VARIABLE: failpoint} if failpoint else {})


def as_variable(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict | list):
        return msgspec.json.encode(value, enc_hook=as_variable).decode()
    return str(value)


@asynccontextmanager
async def process(settings: Settings, failpoint: str | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "generation.main", "serve"),
        env=environment(settings, failpoint),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.terminate()
        await started.wait()


@pytest.mark.parametrize("failpoint", ORDER_FAILPOINTS)
async def test_an_order_survives_a_kill_at_any_point(service: ServiceHarness, failpoint: str) -> None:
    settings = service.settings(drain_seconds=5.0)
    one = order()
    async with process(settings, failpoint) as doomed:
        await service.peers.fund(one)
        await asyncio.wait_for(doomed.wait(), 30)
        assert doomed.returncode == -9
    async with process(settings):
        completed = await service.peers.until(one, GenerationCompleted, timeout=40)
    assert not completed.late
    assert service.peers.count(one, GenerationCompleted) == 1
    assert len(service.worker.taken) <= 2


@pytest.mark.parametrize("failpoint", ["attempt_checks.before_cancel", "attempt_checks.after_cancel"])
async def test_a_cancel_survives_a_kill_before_and_after_the_provider_is_told(
    service: ServiceHarness, failpoint: str
) -> None:
    service.worker.work = fall_silent
    settings = service.settings(drain_seconds=5.0)
    one = order()
    async with process(settings, failpoint) as doomed:
        await service.peers.fund(one)
        await eventually(lambda: service.worker.taken, 20)
        await service.peers.cancel(one)
        await asyncio.wait_for(doomed.wait(), 30)
    async with process(settings):
        await service.peers.until(one, GenerationCancelled, timeout=40)
    assert [job["status"] for job in await service.emulator.jobs()] == ["CANCELLED"]
