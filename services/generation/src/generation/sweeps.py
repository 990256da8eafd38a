"""What drives every state on when nobody says anything: looks at the provider, leases, deadlines, backoffs.

Each method is the round of a loop, and any number of replicas may run it: due rows are taken with SKIP LOCKED.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar

import structlog

from generation.changes import Wakes, save_changes
from generation.domain import lifecycle, provider_news
from generation.domain.order import Attempt, Order, Policy
from generation.domain.provider_reports import Rendering, Report, UnreadableReport, Vanished, Waiting, read_report
from generation.metrics import CALLBACKS
from generation.repository.attempts import (
    DueAttempt,
    lock_overdue,
    lock_retries,
    lock_tombstones,
    purge_tombstones,
    remove_tombstones,
    take_due_cancels,
    take_due_checks,
)
from generation.repository.callbacks import add_callback, purge_callbacks
from generation.repository.orders import lock_orders
from generation.runpod_client import ProviderUnavailable, RunPodClient
from messaging.failpoints import failpoint
from messaging.transaction import Transactions

_BATCH: Final = 100
CALLS_AT_ONCE: Final = 8
"""For each endpoint. A result may be 20 MB."""
_PURGE_BATCH: Final = 500

Reaction = Callable[[Order, Attempt, datetime], None]
T = TypeVar("T")

log = structlog.get_logger(__name__)


class Sweeps:
    """One per process."""

    def __init__(
        self,
        transactions: Transactions,
        client: RunPodClient,
        policy: Policy,
        callback_retention_seconds: float,
        wakes: Wakes,
    ) -> None:
        self._transactions = transactions
        self._client = client
        self._policy = policy
        self._callback_retention_seconds = callback_retention_seconds
        self._wakes = wakes

    async def check_attempts(self) -> None:
        """Settle attempts without a job id whose time is over, and ask the provider about the others that are due."""
        due = await self._take_checks()
        while due:
            without_job = [one for one in due if one.provider_job_id is None]
            await self._apply([(one, self._silence(one)) for one in without_job])
            with_job = [one for one in due if one.provider_job_id is not None]
            await _side_by_side(with_job, self._ask_about)
            due = await self._take_checks() if len(due) == _BATCH else []

    async def cancel_jobs(self) -> None:
        """Have the provider stop the jobs that nobody wants any more."""
        due = await self._take_cancels()
        while due:
            await _side_by_side(due, self._cancel_all)
            due = await self._take_cancels() if len(due) == _BATCH else []

    async def keep_time(self) -> None:
        """Deadlines that passed, backoffs that are over, and cancels whose orders have come."""
        await self._end_overdue()
        await self._ready_retries()
        await self._apply_tombstones()

    async def tidy(self) -> None:
        """Remove raw bodies and tombstones that have outlived their use."""
        async with self._transactions.begin() as tx:
            await purge_tombstones(tx.connection)
        removed = _PURGE_BATCH
        while removed == _PURGE_BATCH:
            async with self._transactions.begin() as tx:
                removed = await purge_callbacks(tx.connection, self._callback_retention_seconds, _PURGE_BATCH)

    async def _end_overdue(self) -> None:
        async with self._transactions.begin() as tx:
            locked = await lock_orders(tx.connection, await lock_overdue(tx.connection, _BATCH))
            for order in locked.orders.values():
                lifecycle.deadline_passed(order, self._policy, locked.now)
            if locked.orders:
                await save_changes(tx, locked, self._wakes)

    async def _ready_retries(self) -> None:
        async with self._transactions.begin() as tx:
            locked = await lock_orders(tx.connection, await lock_retries(tx.connection, _BATCH))
            for order in locked.orders.values():
                lifecycle.backoff_over(order)
            if locked.orders:
                await save_changes(tx, locked, self._wakes)

    async def _apply_tombstones(self) -> None:
        async with self._transactions.begin() as tx:
            tombstones = await lock_tombstones(tx.connection, _BATCH)
            locked = await lock_orders(tx.connection, tombstones)
            for order in locked.orders.values():
                if order.user_id == tombstones[order.generation_id]:
                    lifecycle.cancel(order, self._policy, locked.now)
            if locked.orders:
                await remove_tombstones(tx.connection, sorted(tombstones))
                await save_changes(tx, locked, self._wakes)

    async def _take_checks(self) -> list[DueAttempt]:
        async with self._transactions.begin() as tx:
            return await take_due_checks(tx.connection, _BATCH, self._policy.check_interval.total_seconds())

    async def _take_cancels(self) -> list[DueAttempt]:
        async with self._transactions.begin() as tx:
            return await take_due_cancels(tx.connection, _BATCH)

    def _silence(self, due: DueAttempt) -> Reaction:
        def react(order: Order, attempt: Attempt, now: datetime) -> None:
            if due.status == "prepared":
                provider_news.unanswered(order, attempt, due.fence_token, self._policy, now)
            elif attempt.status == due.status and attempt.provider_job_id is None:
                provider_news.gave_no_sign(order, attempt, self._policy, now)

        return react

    def _reaction(self, report: Report) -> Reaction:
        return lambda order, attempt, now: provider_news.reported(order, attempt, report, self._policy, now, None)

    async def _ask_about(self, due: Sequence[DueAttempt]) -> None:
        reports = await _gathered(due, self._ask)
        await self._apply([(one, self._reaction(report)) for one, report in reports if report is not None])

    async def _cancel_all(self, due: Sequence[DueAttempt]) -> None:
        stopped = await _gathered(due, self._cancel)
        await self._apply([(one, lifecycle.provider_cancelled) for one, done in stopped if done])

    async def _ask(self, due: DueAttempt) -> Report | None:
        """What is to be applied at once. A last word is stored like a webhook instead, and acted on like one."""
        assert due.provider_job_id is not None
        try:
            body = await self._client.status(due.endpoint_id, due.provider_job_id)
        except ProviderUnavailable as error:
            log.warning("status_unavailable", attempt_id=str(due.attempt_id), reason=str(error))
            return None
        if body is None:
            CALLBACKS.labels("status", "not_found").inc()
            return Vanished(job_id=None, code="provider_unavailable", detail="the provider does not know the job")
        try:
            report = await asyncio.to_thread(read_report, body, "")
        except UnreadableReport as error:
            log.warning("unreadable_status", attempt_id=str(due.attempt_id), reason=str(error))
            return None
        if isinstance(report, Waiting | Rendering):
            return report
        async with self._transactions.begin() as tx:
            await add_callback(tx.connection, due.attempt_id, "status", body)
            tx.after_commit(self._wakes.callbacks.set)
        return None

    async def _cancel(self, due: DueAttempt) -> bool:
        assert due.provider_job_id is not None
        failpoint("sweeps.before_cancel")
        try:
            await self._client.cancel(due.endpoint_id, due.provider_job_id)
        except ProviderUnavailable as error:
            log.warning("cancel_unavailable", attempt_id=str(due.attempt_id), reason=str(error))
            return False
        failpoint("sweeps.after_cancel")
        return True

    async def _apply(self, reactions: Sequence[tuple[DueAttempt, Reaction]]) -> None:
        if not reactions:
            return
        async with self._transactions.begin() as tx:
            locked = await lock_orders(tx.connection, (due.generation_id for due, _ in reactions))
            for due, react in reactions:
                order = locked.orders[due.generation_id]
                attempt = order.attempt(due.attempt_id)
                assert attempt is not None, "an attempt is never removed"
                react(order, attempt, locked.now)
            await save_changes(tx, locked, self._wakes)


async def _side_by_side(due: Sequence[DueAttempt], work: Callable[[Sequence[DueAttempt]], Awaitable[None]]) -> None:
    """``work`` for each endpoint's attempts: one that does not answer keeps no other waiting."""
    by_endpoint: defaultdict[str, list[DueAttempt]] = defaultdict(list)
    for one in due:
        by_endpoint[one.endpoint_id].append(one)
    await asyncio.gather(*(work(attempts) for attempts in by_endpoint.values()))


async def _gathered(
    due: Sequence[DueAttempt], call: Callable[[DueAttempt], Awaitable[T]]
) -> list[tuple[DueAttempt, T | None]]:
    """Each attempt with its answer, a bounded number of calls at a time; None where the call failed unexpectedly."""
    slots = asyncio.Semaphore(CALLS_AT_ONCE)

    async def one(attempt: DueAttempt) -> tuple[DueAttempt, T | None]:
        async with slots:
            try:
                return attempt, await call(attempt)
            except Exception:
                # It comes again when its timer does; the others need not wait for somebody to look into it.
                log.exception("provider_call_failed", attempt_id=str(attempt.attempt_id))
                return attempt, None

    return list(await asyncio.gather(*(one(attempt) for attempt in due)))
