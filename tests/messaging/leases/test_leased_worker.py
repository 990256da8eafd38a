"""One worker in this process: how much it takes at a time, and what it does with work that goes wrong."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from messaging.leased_worker import LeasedWorker
from messaging.leases import Claim
from service_runtime.backoff import Backoff
from tests.messaging.leases.case import add_effects_table
from tests.messaging.leases.conformance import LeaseHarness
from tests.messaging.leases.probe import PROBES, Probe, ProbeCase, probes
from tests.support import eventually
from tests.support.databases import MakeDatabase

Work = Callable[[Probe], Awaitable[None]]


class WorkerHarness(LeaseHarness):
    """Rows, and workers on them."""

    def worker(self, work: Work, **changes: Any) -> LeasedWorker[Probe]:
        """A worker that looks for rows when it is woken, and hardly ever otherwise."""
        options: dict[str, Any] = {
            "concurrency": 2,
            "poll_seconds": 3600,
            "timeout_seconds": 60,
            "backoff": Backoff(first=timedelta(hours=1), longest=timedelta(hours=1), jitter=0),
        }
        return LeasedWorker("probes", self.transactions, PROBES, ProbeCase().claim, work, **(options | changes))

    async def rows(self) -> Sequence[Any]:
        """All rows, with whether they wait for an hour."""
        waits = (probes.c.due_at > sa.func.now() + timedelta(minutes=59)).label("waits")
        async with self.transactions.begin() as tx:
            return (await tx.connection.execute(sa.select(*probes.c, waits))).all()


@pytest.fixture
async def harness(make_database: MakeDatabase, tmp_path: Path) -> WorkerHarness:
    case = ProbeCase()
    database = await case.database(make_database)
    await add_effects_table(case, database)
    return WorkerHarness(case, database, tmp_path)


@asynccontextmanager
async def running(worker: LeasedWorker[Probe]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def counted(name: str) -> float:
    return REGISTRY.get_sample_value(name, {"worker": "probes"}) or 0.0


async def for_ever(_: Probe) -> None:
    await asyncio.Event().wait()


async def test_as_many_rows_as_agreed_are_worked_on_and_a_freed_place_is_filled(harness: WorkerHarness) -> None:
    gate, at_once = asyncio.Semaphore(0), 0

    async def work(row: Probe) -> None:
        nonlocal at_once
        at_once += 1
        await gate.acquire()
        at_once -= 1
        await harness.complete(row)

    await harness.add(5)
    async with running(harness.worker(work)):
        await eventually(lambda: at_once == 2)
        assert len([row for row in await harness.rows() if row.leased_until]) == 2
        gate.release()

        async def the_next_one_is_begun() -> bool:
            return at_once == 2 and len(await harness.effects()) == 1

        await eventually(the_next_one_is_begun)
        for _ in range(4):
            gate.release()

        async def all_are_done() -> bool:
            return len(await harness.effects()) == 5

        await eventually(all_are_done)


async def test_work_that_fails_is_postponed_and_harms_no_other(harness: WorkerHarness) -> None:
    failed: list[Claim] = []

    async def work(row: Probe) -> None:
        if not failed:
            failed.append(row.claim)
            raise RuntimeError("not this one")
        await harness.complete(row)

    await harness.add(2)
    worker, failures = harness.worker(work), counted("messaging_leased_work_failures_total")
    await worker.fill()
    await worker.idle()
    assert len(await harness.effects()) == 1
    [postponed] = [row for row in await harness.rows() if row.waits]
    assert (postponed.shelf, postponed.probe_id) == failed[0].key
    assert (postponed.leased_until, postponed.tries) == (None, 1)
    assert counted("messaging_leased_work_failures_total") == failures + 1


async def test_work_that_takes_too_long_is_ended_and_postponed(harness: WorkerHarness) -> None:
    await harness.add(1)
    worker = harness.worker(for_ever, timeout_seconds=0.05)
    await worker.fill()
    await worker.idle()
    assert [row.waits for row in await harness.rows()] == [True]


async def test_work_that_lost_its_lease_is_cancelled(harness: WorkerHarness) -> None:
    await harness.add(1)
    worker, lost = harness.worker(for_ever, lease=timedelta(seconds=-1)), counted("messaging_leases_lost_total")
    await worker.fill()
    [other] = await harness.claim()
    await worker.extend()
    await worker.idle()
    assert counted("messaging_leases_lost_total") == lost + 1
    await harness.complete(other)
    assert len(await harness.effects()) == 1


async def test_a_heartbeat_keeps_the_lease_of_what_takes_long(harness: WorkerHarness) -> None:
    await harness.add(1)
    lease, heartbeat = timedelta(seconds=2), timedelta(seconds=0.05)
    async with running(harness.worker(for_ever, lease=lease, heartbeat=heartbeat)):
        [begun] = await eventually(lambda: _leased(harness))

        async def extended() -> bool:
            [now] = await _leased(harness)
            return bool(now.leased_until > begun.leased_until)

        await eventually(extended)
        assert await harness.claim() == []


async def test_a_stop_lets_work_end_that_is_given_time(harness: WorkerHarness) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def work(row: Probe) -> None:
        begun.set()
        await gate.wait()
        await harness.complete(row)

    await harness.add(1)
    async with running(harness.worker(work, finish_seconds=30)) as task:
        await begun.wait()
        task.cancel()
        gate.set()
        await asyncio.wait({task})
    assert len(await harness.effects()) == 1


async def test_a_stop_gives_back_what_is_not_done(harness: WorkerHarness) -> None:
    await harness.add(2)
    async with running(harness.worker(for_ever)):
        await eventually(lambda: _leased(harness))
    assert [(row.leased_until, row.tries) for row in await harness.rows()] == [(None, 0)] * 2


async def _leased(harness: WorkerHarness) -> list[Any]:
    return [row for row in await harness.rows() if row.leased_until]


async def test_a_place_is_reserved_only_for_a_worker_that_has_claimed_all_that_is_due(harness: WorkerHarness) -> None:
    wake = asyncio.Event()
    worker = harness.worker(for_ever, wake=wake)
    assert not worker.reserve(1), "it has not looked yet"
    await worker.fill()
    wake.set()
    assert not worker.reserve(1), "it is about to look"
    wake.clear()
    assert worker.reserve(2)
    assert not worker.reserve(1), "both places are reserved"
    await harness.add(1)
    assert await worker.fill() == 0, "the places are kept free"
    worker.begin(2, [])
    assert wake.is_set(), "a row has waited for a place"
    assert not worker.reserve(1), "that row comes first"
    assert await worker.fill() == 1
    await worker.drain()
    assert not worker.reserve(1), "it has stopped"


async def test_a_stop_waits_for_a_row_that_is_being_written_and_gives_it_back(harness: WorkerHarness) -> None:
    worker = harness.worker(for_ever)
    async with running(worker) as task:
        await eventually(lambda: worker.reserve(1))
        task.cancel()
        await harness.add(1)
        [row] = await harness.claim()
        assert not task.done()
        worker.begin(1, [Probe(row.claim)])
        await asyncio.wait({task})
    [left] = await harness.rows()
    assert (left.leased_until, left.tries) == (None, 0)
