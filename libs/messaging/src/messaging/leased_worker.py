"""Runs leased work: claims what is due, keeps the leases of what is under way, gives back the rest when it stops."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, Generic, TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from messaging import metrics
from messaging.database import is_unavailable, single_statements
from messaging.failpoints import failpoint
from messaging.ids import new_id
from messaging.leases import HEARTBEAT, LEASE, Claim, Leased, LeasedTable
from messaging.transaction import Transactions
from service_runtime.backoff import Backoff
from service_runtime.lifecycle import to_the_end
from service_runtime.loops import Every
from service_runtime.tracing import Origin, mark_failed, work_span

_log = structlog.get_logger("messaging.leased_worker")

Work = TypeVar("Work", bound=Leased)

_CLAIM_SECONDS: Final = 10.0
"""How long a stop waits for a claim whose commit is under way: what was claimed is to be given back."""
_RELEASE_SECONDS: Final = 5.0
_RESERVED_SECONDS: Final = 3.0
"""How long a stop waits for transactions that write rows for reserved places."""
_EXTEND_AGAIN: Final = Backoff(first=timedelta(seconds=0.2), longest=timedelta(seconds=2))


class LeasedWorker(Generic[Work]):
    """Component that works on the due rows of one leased table, ``concurrency`` at a time.

    ``claim(connection, room, lease)`` claims up to ``room`` due rows for ``lease``; each of its statements is a
    transaction of its own.
    ``work(row)`` runs outside any transaction and ends the claim itself, with ``complete`` or ``postpone`` in the
    transaction of its effect. Both are bound by the contract in ``messaging.leases``.

    Rows are claimed when ``wake`` is set, when a place becomes free, and every ``poll_seconds``. A claim that failed is
    repeated after ``retry_seconds`` (or a poll), and then after growing pauses. Work that raises, or takes longer than
    ``timeout_seconds``, is logged and postponed by ``backoff``. Work that loses its lease is cancelled. At a stop
    nothing more is claimed; work under way has ``finish_seconds`` to end, then it is cancelled and given back.
    ``origin(row)`` says which trace the work continues, and whom it concerns.
    """

    def __init__(
        self,
        name: str,
        transactions: Transactions,
        table: LeasedTable,
        claim: Callable[[AsyncConnection, int, timedelta], Awaitable[Sequence[Work]]],
        work: Callable[[Work], Awaitable[None]],
        *,
        concurrency: int,
        poll_seconds: float,
        timeout_seconds: float,
        backoff: Backoff,
        wake: asyncio.Event | None = None,
        finish_seconds: float = 0.0,
        origin: Callable[[Work], Origin] = lambda _: Origin(),
        lease: timedelta = LEASE,
        heartbeat: timedelta = HEARTBEAT,
        retry_seconds: float | None = None,
    ) -> None:
        self.name = name
        self._transactions = transactions
        self._table = table
        self._claim = claim
        self._work = work
        self._concurrency = concurrency
        self._timeout_seconds = timeout_seconds
        self._backoff = backoff
        self._wake = wake or asyncio.Event()
        self._finish_seconds = finish_seconds
        self._origin = origin
        self._lease = lease
        self._heartbeat = heartbeat
        self._running: dict[asyncio.Task[None], Claim] = {}
        self._reserved = 0
        self._none_reserved = asyncio.Event()
        self._is_caught_up = False
        """The last look has claimed all that was due."""
        self._had_no_room = False
        """The last look ended because there was no place left."""
        self._is_stopping = self._is_drained = False
        self._begun = asyncio.Event()
        """Work began since the heartbeat last found none."""
        self._replica = new_id()
        self._claims = Every(name, poll_seconds, self.fill, wake=self._wake, retry_seconds=retry_seconds)
        self.heartbeat_limit_seconds = self._claims.heartbeat_limit_seconds
        for counter in (metrics.LEASED_WORK_FAILURES, metrics.LEASES_LOST):
            counter.labels(name)

    def heartbeat_age_seconds(self) -> float:
        """Seconds since this worker last looked for due rows."""
        return self._claims.heartbeat_age_seconds()

    async def run(self) -> None:
        """Work until cancelled, then drain."""
        heartbeat = asyncio.create_task(self._extend_again_and_again(), name=f"{self.name}-heartbeat")
        try:
            await self._claims.run()
        finally:
            try:
                await to_the_end(self.drain(), self._finish_seconds + _RESERVED_SECONDS + _RELEASE_SECONDS)
            finally:
                heartbeat.cancel()

    async def fill(self) -> int:
        """Claim as much as there is room for and due, and begin to work on it. Returns how many rows that are."""
        begun = 0
        self._is_caught_up = self._had_no_room = False
        while (room := self._room) > 0:
            claimed = await to_the_end(self._claim_and_begin(room), _CLAIM_SECONDS)
            begun += claimed
            if claimed < room:
                self._is_caught_up = True
                return begun
        self._had_no_room = True
        return begun

    def reserve(self, count: int) -> bool:
        """Keep ``count`` places for rows that are about to be written as claimed, with fence 1 as their first try.

        False if there are not so many, if other rows may wait for them, or at a stop: then write the rows as due. Every
        reservation must be ended by ``begin``, in this process and within seconds.
        """
        if self._is_stopping or self._wake.is_set() or not self._is_caught_up or count > self._room:
            return False
        self._reserved += count
        self._none_reserved.clear()
        return True

    def begin(self, count: int, rows: Sequence[Work]) -> None:
        """End a reservation of ``count`` places, and work on those ``rows`` for which it was made that are claimed."""
        self._reserved -= count
        if self._is_drained:
            for row in rows:
                _log.warning("lease_left_to_run_out", worker=self.name, reason="it stopped", **_facts(row.claim))
        else:
            self._begin(rows)
        if self._reserved == 0:
            self._none_reserved.set()
        if len(rows) < count and self._had_no_room:
            self._wake.set()

    @property
    def _room(self) -> int:
        return self._concurrency - len(self._running) - self._reserved

    async def extend(self) -> None:
        """Extend the leases of what is under way, and cancel the work on rows that another worker has."""
        claims = list(self._running.values())
        if not claims:
            return
        failpoint("lease.before_extend")
        async with single_statements(self._transactions.engine) as connection:
            lost = await self._table.extend(connection, claims, self._lease)
        for task, claim in list(self._running.items()):
            if claim in lost:
                metrics.LEASES_LOST.labels(self.name).inc()
                _log.warning("lease_lost", worker=self.name, **_facts(claim))
                task.cancel()

    async def idle(self) -> None:
        """Return when nothing is under way."""
        while self._running:
            await asyncio.wait(list(self._running))

    async def drain(self) -> None:
        """Let what is under way end, for ``finish_seconds``, then cancel it and give it back."""
        failpoint("lease.before_drain")
        self._is_stopping = True
        if self._reserved:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RESERVED_SECONDS):
                    await self._none_reserved.wait()
        self._is_drained = True
        running = dict(self._running)
        if running and self._finish_seconds > 0:
            await asyncio.wait(running, timeout=self._finish_seconds)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        left = [claim for task, claim in running.items() if task.cancelled()]
        if left:
            failpoint("lease.before_release")
            async with single_statements(self._transactions.engine) as connection:
                await self._table.release(connection, left)

    async def _claim_and_begin(self, room: int) -> int:
        async with single_statements(self._transactions.engine) as connection:
            claimed = await self._claim(connection, room, self._lease)
        self._begin(claimed)
        return len(claimed)

    def _begin(self, claimed: Sequence[Work]) -> None:
        failpoint("lease.after_claim")
        for row in claimed:
            task = asyncio.create_task(self._one(row), name=f"{self.name} {row.claim.key}")
            self._running[task] = row.claim
            self._begun.set()
            task.add_done_callback(self._ended)
        metrics.LEASED_WORK.labels(self.name).set(len(self._running))

    async def _one(self, row: Work) -> None:
        with work_span(f"work {self.name}", self._origin(row)) as span:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await self._work(row)
            except Exception as error:  # noqa: BLE001 - whatever it is, the row is postponed, and the others go on
                mark_failed(span, error)
                await self._postpone(row.claim, error)
        failpoint("lease.after_work")

    async def _postpone(self, claim: Claim, error: Exception) -> None:
        delay = self._backoff.delay(claim.tries, claim.key)
        metrics.LEASED_WORK_FAILURES.labels(self.name).inc()
        _log.error(
            "leased_work_failed",
            worker=self.name,
            again_in_seconds=round(delay.total_seconds(), 1),
            reason=f"{type(error).__name__}: {error}",
            exc_info=None if is_unavailable(error) else error,
            **_facts(claim),
        )
        try:
            async with self._transactions.begin() as tx:
                await self._table.postpone(tx.connection, claim, delay)
        except Exception as unrecorded:  # noqa: BLE001 - the lease runs out, and the row is worked on again
            _log.warning("lease_left_to_run_out", worker=self.name, reason=str(unrecorded), **_facts(claim))

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        metrics.LEASED_WORK.labels(self.name).set(len(self._running))
        if self._had_no_room:
            # For what else may be due.
            self._wake.set()

    async def _extend_again_and_again(self) -> None:
        failures = 0
        while True:
            if not self._running:
                self._begun.clear()
            await self._begun.wait()
            beat = self._heartbeat.total_seconds()
            await asyncio.sleep(_EXTEND_AGAIN.seconds(failures, self._replica) if failures else beat)
            try:
                async with asyncio.timeout(self._lease.total_seconds()):
                    await self.extend()
            except Exception as error:  # noqa: BLE001 - the leases may still be extended in time
                failures += 1
                _log.warning("leases_not_extended", worker=self.name, error=f"{type(error).__name__}: {error}")
            else:
                failures = 0


def _facts(claim: Claim) -> dict[str, object]:
    return {"key": [str(part) for part in claim.key], "fence": claim.fence, "tries": claim.tries}
