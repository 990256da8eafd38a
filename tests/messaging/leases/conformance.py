"""What every leased table promises. A service subclasses ``LeaseConformance`` with its own case:

    class TestVerificationLeases(LeaseConformance):
        case = VerificationCase

The case stands in a module of its own: what the processes of workers are forked from imports it, and nothing of the
tests besides.
A second table of one service, whose work runs in the same way, needs ``LeaseRules`` only: no processes, one second.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from messaging.failpoints import VARIABLE
from messaging.leases import Claim, Leased
from messaging.transaction import Transactions
from tests.messaging.leases.case import (
    LeaseCase,
    add_effects_table,
    complete_with_effect,
    effects,
    name_of,
)
from tests.messaging.leases.process import POLL_SECONDS, leased_worker
from tests.support import eventually
from tests.support.databases import Database, MakeDatabase
from tests.support.fork_server import ForkedProcess, start_forked

ROWS = 3
LONG = timedelta(minutes=10)
OVER = timedelta(seconds=-1)
"""A lease that ended when it began."""

LEASE_SECONDS = 2.0
START_SECONDS = 30.0
"""What a worker may need until it works, on a busy machine. Far below what an unfenced lock would last."""


@dataclass(frozen=True)
class Step:
    """A place where a worker dies or freezes, and how it works until then."""

    failpoint: str
    work_seconds: float = 0.0
    heartbeat_seconds: float = 60.0
    concurrency: int = ROWS
    told_to_stop: bool = False
    completes_before: bool = False
    """Whether the rows that reach this step are completed already."""
    completes_late: bool = False
    """Whether a worker that is continued here tries to complete a row that another worker has completed."""


STEPS = (
    Step("lease.after_claim", completes_late=True),
    Step("lease.before_extend", work_seconds=60, heartbeat_seconds=0.3),
    Step("lease.before_complete", completes_late=True),
    Step("lease.before_postpone", work_seconds=-1),
    # One at a time: rows whose completion is not committed yet are locked, see the contract.
    Step("lease.after_work", concurrency=1, completes_before=True),
    Step("lease.before_drain", work_seconds=60, heartbeat_seconds=0.3, told_to_stop=True),
    Step("lease.before_release", work_seconds=60, heartbeat_seconds=0.3, told_to_stop=True),
)
UNHARMED = Step("", heartbeat_seconds=LEASE_SECONDS / 4)
each_step = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.failpoint)


class LeaseHarness:
    """The rows of one case, this process as one worker, and other processes as more."""

    def __init__(self, case: LeaseCase, database: Database, logs: Path) -> None:
        self.case = case
        self.engine: AsyncEngine = database.engine(case.service)
        self.transactions = Transactions(self.engine, case.service)
        self._database = database
        self._logs = logs
        self._stack = AsyncExitStack()

    async def add(self, count: int) -> None:
        """Rows that are due."""
        async with self.transactions.begin() as tx:
            await self.case.add(tx, count)

    async def claim(self, room: int = 100, lease: timedelta = LONG) -> Sequence[Leased]:
        """Claim in a transaction of its own."""
        async with self.transactions.begin() as tx:
            return await self.case.claim(tx.connection, room, lease)

    async def complete(self, row: Leased, worker: str = "here") -> None:
        """Complete a row and leave an effect, or a refusal."""
        async with self.transactions.begin() as tx:
            await complete_with_effect(self.case, tx, row, worker)

    async def postpone(self, claim: Claim, delay: timedelta) -> bool:
        """Postpone in a transaction of its own."""
        async with self.transactions.begin() as tx:
            return await self.case.table.postpone(tx.connection, claim, delay)

    async def extend(self, *claims: Claim, lease: timedelta = LONG) -> set[Claim]:
        """Extend in a transaction of its own."""
        async with self.transactions.begin() as tx:
            return await self.case.table.extend(tx.connection, claims, lease)

    async def release(self, *claims: Claim) -> None:
        """Release in a transaction of its own."""
        async with self.transactions.begin() as tx:
            await self.case.table.release(tx.connection, claims)

    async def effects(self) -> list[tuple[str, str]]:
        """Key and worker of each effect."""
        return await effects(self.case, self.engine, done=True)

    async def refusals(self) -> list[tuple[str, str]]:
        """Key and worker of each completion that was refused."""
        return await effects(self.case, self.engine, done=False)

    async def process(self, name: str, step: Step, action: str = "") -> ForkedProcess:
        """Another worker; it dies or freezes at ``step``."""
        kind = type(self.case)
        log = self._stack.enter_context((self._logs / name).open("wb"))
        process = await start_forked(
            "tests.messaging.leases.process",
            *(name, f"{kind.__module__}:{kind.__qualname__}"),
            *(str(number) for number in (step.work_seconds, LEASE_SECONDS)),
            *(str(number) for number in (step.heartbeat_seconds, step.concurrency)),
            imports=[kind.__module__],
            environment={
                "DATABASE_URL": self._database.dsn(self.case.service),
                "NATS_URL": "nats://nowhere.invalid",
                "NATS_USER": self.case.service,
                "NATS_PASSWORD": "unused-here",
                "OPS_HOST": "127.0.0.1",
                "OPS_PORT": "0",
                VARIABLE: f"{step.failpoint}{action}",
            },
            stdout=log,
            stderr=log,
        )
        self._stack.push_async_callback(_kill, process)
        return process

    def work_here(self, name: str, step: Step) -> None:
        """Another worker, in this process; it works until the test ends."""
        seconds = (step.work_seconds, LEASE_SECONDS, step.heartbeat_seconds)
        worker = leased_worker(name, self.case, self.transactions, *seconds, step.concurrency)
        self._stack.push_async_callback(_cancel, asyncio.create_task(worker.run(), name=name))

    def log_of(self, name: str) -> str:
        """What the process of that name has logged."""
        return (self._logs / name).read_text()

    async def reach(self, process: ForkedProcess, step: Step, name: str) -> None:
        """Let the process come to ``step``."""
        if step.told_to_stop:
            await eventually(lambda: "service_started" in self.log_of(name), timeout=START_SECONDS)
            await eventually(self._nothing_is_due)
            process.send_signal(signal.SIGTERM)

    async def _nothing_is_due(self) -> bool:
        async with self.transactions.begin() as tx:
            claimed = await self.case.claim(tx.connection, 1, LONG)
            # Only a look: what is claimed here is given back by the rollback.
            await tx.connection.rollback()
        return not claimed

    async def close(self) -> None:
        """End every process."""
        await self._stack.aclose()


async def _cancel(task: asyncio.Task[None]) -> None:
    """End a worker of this process. If it died before, that is raised."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _kill(process: ForkedProcess) -> None:
    process.kill()
    await process.wait()


def is_frozen(process: ForkedProcess) -> bool:
    """Whether the process was stopped by SIGSTOP."""
    return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED


class LeaseRules:
    """What the statements of a leased table promise. ``harness`` gives each test an empty table."""

    case: ClassVar[type[LeaseCase]]

    @pytest.fixture
    async def harness(self, make_database: MakeDatabase, tmp_path: Path) -> AsyncIterator[LeaseHarness]:
        case = self.case()
        database = await case.database(make_database)
        await add_effects_table(case, database)
        made = LeaseHarness(case, database, tmp_path)
        yield made
        await made.close()

    async def test_a_claimed_row_is_not_claimed_again_while_its_lease_lasts(self, harness: LeaseHarness) -> None:
        await harness.add(ROWS)
        assert len(await harness.claim()) == ROWS
        assert await harness.claim() == []

    async def test_no_more_rows_are_claimed_than_there_is_room_for(self, harness: LeaseHarness) -> None:
        await harness.add(ROWS)
        assert len(await harness.claim(room=ROWS - 1)) == ROWS - 1

    async def test_workers_that_claim_at_once_never_get_the_same_row(self, harness: LeaseHarness) -> None:
        await harness.add(ROWS)
        claims = await asyncio.gather(*(harness.claim(room=1) for _ in range(4 * ROWS)))
        keys = [row.claim.key for rows in claims for row in rows]
        assert len(keys) == len(set(keys))
        # Who meets a locked row may pass all by: the rest is there for the next one.
        rest = await harness.claim()
        assert len(keys) + len(rest) == ROWS

    async def test_a_row_whose_lease_ended_is_claimed_with_a_higher_fence(self, harness: LeaseHarness) -> None:
        await harness.add(1)
        [first] = await harness.claim(lease=OVER)
        [second] = await harness.claim()
        assert second.claim.key == first.claim.key
        assert second.claim.fence > first.claim.fence
        assert (first.claim.tries, second.claim.tries) == (1, 2)

    async def test_a_stale_claim_changes_nothing(self, harness: LeaseHarness) -> None:
        await harness.add(1)
        [stale] = await harness.claim(lease=OVER)
        [current] = await harness.claim()
        await harness.complete(stale, "stale")
        assert not await harness.postpone(stale.claim, timedelta(0))
        assert await harness.extend(stale.claim, lease=OVER) == {stale.claim}
        await harness.release(stale.claim)
        assert await harness.claim() == []
        await harness.complete(current, "current")
        name = name_of(current.claim)
        assert (await harness.effects(), await harness.refusals()) == ([(name, "current")], [(name, "stale")])

    async def test_a_claim_ends_once(self, harness: LeaseHarness) -> None:
        await harness.add(1)
        [row] = await harness.claim(lease=OVER)
        await harness.complete(row)
        await harness.complete(row)
        assert not await harness.postpone(row.claim, timedelta(0))
        assert await harness.extend(row.claim) == set()
        await harness.release(row.claim)
        assert await harness.claim() == []
        assert len(await harness.effects()) == len(await harness.refusals()) == 1

    async def test_a_lease_that_ended_still_counts_while_nobody_else_claims(self, harness: LeaseHarness) -> None:
        await harness.add(1)
        [row] = await harness.claim(lease=OVER)
        await harness.complete(row)
        assert len(await harness.effects()) == 1

    async def test_a_completion_that_rolls_back_leaves_the_claim_standing(self, harness: LeaseHarness) -> None:
        await harness.add(1)
        [row] = await harness.claim()

        async def complete_in_vain() -> None:
            async with harness.transactions.begin() as tx:
                await complete_with_effect(harness.case, tx, row, "here")
                raise ConnectionError

        with pytest.raises(ConnectionError):
            await complete_in_vain()
        assert await harness.effects() == []
        await harness.complete(row)
        assert len(await harness.effects()) == 1

    async def test_a_postponed_row_is_due_after_its_delay(self, harness: LeaseHarness) -> None:
        await harness.add(1)
        [row] = await harness.claim()
        assert await harness.postpone(row.claim, timedelta(0))
        [again] = await harness.claim()
        assert await harness.postpone(again.claim, LONG)
        assert await harness.claim() == []

    async def test_a_released_row_is_due_at_once_and_its_try_does_not_count(self, harness: LeaseHarness) -> None:
        await harness.add(1)
        [row] = await harness.claim()
        await harness.release(row.claim)
        [again] = await harness.claim()
        assert (again.claim.key, again.claim.tries) == (row.claim.key, row.claim.tries)
        assert again.claim.fence > row.claim.fence

    async def test_an_extended_lease_outlasts_the_first(self, harness: LeaseHarness) -> None:
        await harness.add(1)
        [row] = await harness.claim(lease=OVER)
        assert await harness.extend(row.claim) == set()
        assert await harness.claim() == []

    async def test_an_extension_waits_for_no_row_that_is_just_completed(self, harness: LeaseHarness) -> None:
        await harness.add(2)
        [ending, going_on] = await harness.claim(lease=OVER)
        async with harness.transactions.begin() as tx:
            await complete_with_effect(harness.case, tx, ending, "here")
            async with asyncio.timeout(4):
                assert await harness.extend(ending.claim, going_on.claim) == set()
        assert await harness.claim() == []


class LeaseConformance(LeaseRules):
    """The same rules, and what they are for: workers in processes of their own are killed and frozen in each step."""

    @each_step
    async def test_the_rows_of_a_killed_worker_are_completed_by_another(
        self, harness: LeaseHarness, step: Step
    ) -> None:
        await harness.add(ROWS)
        first = await harness.process("first", step)
        await harness.reach(first, step, "first")
        assert await asyncio.wait_for(first.wait(), START_SECONDS) == -signal.SIGKILL
        await others_complete_what_is_left(harness)

    @each_step
    async def test_a_frozen_worker_is_replaced_and_finds_itself_refused(
        self, harness: LeaseHarness, step: Step
    ) -> None:
        await harness.add(ROWS)
        first = await harness.process("first", step, "=freeze")
        await harness.reach(first, step, "first")
        await eventually(lambda: is_frozen(first), timeout=START_SECONDS)
        await others_complete_what_is_left(harness)
        before = await harness.effects()
        assert ("first" in {worker for _, worker in before}) == step.completes_before
        first.send_signal(signal.SIGCONT)
        if step.completes_late:
            await eventually(harness.refusals)
        if step.failpoint == "lease.before_extend":
            await eventually(lambda: harness.log_of("first").count("lease_lost") == ROWS)
        if not step.told_to_stop:
            first.terminate()
        assert await asyncio.wait_for(first.wait(), START_SECONDS) == 0
        assert {worker for _, worker in await harness.refusals()} <= {"first"}
        assert await harness.effects() == before
        assert await harness.claim() == []

    async def test_a_worker_that_is_told_to_stop_gives_its_rows_back_at_once(self, harness: LeaseHarness) -> None:
        await harness.add(ROWS)
        step = Step("", work_seconds=60, told_to_stop=True)
        first = await harness.process("first", step)
        await harness.reach(first, step, "first")
        assert await asyncio.wait_for(first.wait(), START_SECONDS) == 0
        # Its lease would have lasted longer than this process needs to look.
        rows = await harness.claim()
        assert [row.claim.tries for row in rows] == [1] * ROWS


async def others_complete_what_is_left(harness: LeaseHarness, within_seconds: float = LEASE_SECONDS) -> None:
    """Within the lease and one poll of a worker in this process, every row has its effect, and each has one."""
    harness.work_here("second", UNHARMED)

    async def all_done() -> bool:
        return len(await harness.effects()) >= ROWS

    await eventually(all_done, timeout=within_seconds + POLL_SECONDS + START_SECONDS)
    keys = [key for key, _ in await harness.effects()]
    assert len(set(keys)) == len(keys) == ROWS
