"""Attempts that are due: poll their jobs, resolve those without a job, and have abandoned jobs stopped.

Each public method is the round of a loop. Any number of replicas may run it: due rows are taken with SKIP LOCKED.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar

import structlog

from generation.changes import save_changes
from generation.domain import lifecycle, provider_events
from generation.domain.gpu_use import GpuUse, record_use
from generation.domain.order import Attempt, Order
from generation.domain.policy import Policy
from generation.domain.provider_reports import (
    JobLost,
    JobQueued,
    JobRunning,
    Report,
    UnreadableReport,
    read_report,
)
from generation.metrics import CALLBACKS
from generation.repository.attempts import DueAttempt, take_due_cancels, take_due_checks
from generation.repository.callbacks import add_callback
from generation.repository.orders import lock_orders
from generation.runpod.client import POLLS_AT_ONCE, ProviderUnavailable, RunPodClient
from generation.wake_ups import WakeUps
from messaging.database import single_statements
from messaging.failpoints import failpoint
from messaging.transaction import Transactions

_BATCH: Final = 100

Transition = Callable[[Order, Attempt, datetime], None]
T = TypeVar("T")

log = structlog.get_logger(__name__)


class AttemptChecks:
    """One per process."""

    def __init__(
        self,
        transactions: Transactions,
        client: RunPodClient,
        policy: Policy,
        wake_ups: WakeUps,
    ) -> None:
        self._transactions = transactions
        self._client = client
        self._policy = policy
        self._wake_ups = wake_ups

    async def check_attempts(self) -> None:
        """Poll the jobs that are due, and resolve the attempts without a job id whose time is over."""
        due = await self._take_checks()
        while due:
            without_job = [one for one in due if one.provider_job_id is None]
            await self._apply([(one, self._time_out(one)) for one in without_job])
            with_job = [one for one in due if one.provider_job_id is not None]
            await _for_each_endpoint(with_job, self._poll_all)
            due = await self._take_checks() if len(due) == _BATCH else []

    async def cancel_jobs(self) -> None:
        """Have the provider stop the jobs of abandoned attempts."""
        due = await self._take_cancels()
        while due:
            await _for_each_endpoint(due, self._cancel_all)
            due = await self._take_cancels() if len(due) == _BATCH else []

    async def _take_checks(self) -> list[DueAttempt]:
        async with single_statements(self._transactions.engine) as connection:
            return await take_due_checks(connection, _BATCH, self._policy.check_interval.total_seconds())

    async def _take_cancels(self) -> list[DueAttempt]:
        async with self._transactions.begin() as tx:
            return await take_due_cancels(tx.connection, _BATCH)

    def _time_out(self, due: DueAttempt) -> Transition:
        def transition(order: Order, attempt: Attempt, now: datetime) -> None:
            if due.status == "prepared":
                provider_events.dispatcher_died(order, attempt, due.fence_token, self._policy, now)
            elif attempt.status == due.status and attempt.provider_job_id is None:
                provider_events.submission_timed_out(order, attempt, self._policy, now)

        return transition

    def _report(self, report: Report) -> Transition:
        return lambda order, attempt, now: provider_events.reported(order, attempt, report, self._policy, now, None)

    def _record_use(self, use: GpuUse) -> Transition:
        return lambda order, attempt, _: record_use(order, attempt, use)

    async def _poll_all(self, due: Sequence[DueAttempt]) -> None:
        reports = await _call_each(due, self._poll)
        await self._apply([(one, self._report(report)) for one, report in reports if report is not None])

    async def _cancel_all(self, due: Sequence[DueAttempt]) -> None:
        cancels = await _call_each(due, self._cancel)
        stopped = [one for one, done in cancels if done]
        await self._apply([(one, lifecycle.provider_cancelled) for one in stopped])
        # Only now: what it took of a worker is worth a question, and no user waits for the answer.
        used = await _call_each(stopped, self._read_use)
        await self._apply([(one, self._record_use(use)) for one, use in used if use is not None])

    async def _poll(self, due: DueAttempt) -> Report | None:
        """A report to act on at once. A final one is stored like a webhook instead, and acted on like a webhook."""
        assert due.provider_job_id is not None
        try:
            body = await self._client.status(due.endpoint_id, due.provider_job_id)
        except ProviderUnavailable as error:
            log.warning("status_unavailable", attempt_id=str(due.attempt_id), reason=str(error))
            return None
        if body is None:
            CALLBACKS.labels("status", "not_found").inc()
            return JobLost(job_id=None, code="provider_unavailable", detail="the provider does not know the job")
        try:
            report = await asyncio.to_thread(read_report, body, "")
        except UnreadableReport as error:
            log.warning("unreadable_status", attempt_id=str(due.attempt_id), reason=str(error))
            return None
        if isinstance(report, JobQueued | JobRunning):
            return report
        async with self._transactions.begin() as tx:
            if not await add_callback(tx.connection, due.attempt_id, "status", body):
                CALLBACKS.labels("status", "no_room").inc()
                log.error("status_not_stored", attempt_id=str(due.attempt_id), size_bytes=len(body))
            tx.after_commit(self._wake_ups.callbacks.set)
        return None

    async def _cancel(self, due: DueAttempt) -> bool:
        assert due.provider_job_id is not None
        failpoint("attempt_checks.before_cancel")
        try:
            await self._client.cancel(due.endpoint_id, due.provider_job_id)
        except ProviderUnavailable as error:
            log.warning("cancel_unavailable", attempt_id=str(due.attempt_id), reason=str(error))
            return False
        failpoint("attempt_checks.after_cancel")
        return True

    async def _read_use(self, due: DueAttempt) -> GpuUse | None:
        """What a job that was stopped took of a worker."""
        assert due.provider_job_id is not None
        try:
            body = await self._client.status(due.endpoint_id, due.provider_job_id)
            return None if body is None else (await asyncio.to_thread(read_report, body, "")).use
        except (ProviderUnavailable, UnreadableReport) as error:
            log.info("use_unknown", attempt_id=str(due.attempt_id), reason=str(error))
            return None

    async def _apply(self, transitions: Sequence[tuple[DueAttempt, Transition]]) -> None:
        if not transitions:
            return
        async with self._transactions.begin() as tx:
            locked = await lock_orders(tx.connection, (due.generation_id for due, _ in transitions))
            for due, transition in transitions:
                order = locked.orders[due.generation_id]
                transition(order, order.get_attempt(due.attempt_id), locked.now)
            await save_changes(tx, locked, self._wake_ups)


async def _for_each_endpoint(
    due: Sequence[DueAttempt], work: Callable[[Sequence[DueAttempt]], Awaitable[None]]
) -> None:
    """Do ``work`` for the attempts of each endpoint at the same time: one that does not answer delays no other."""
    by_endpoint: defaultdict[str, list[DueAttempt]] = defaultdict(list)
    for one in due:
        by_endpoint[one.endpoint_id].append(one)
    await asyncio.gather(*(work(attempts) for attempts in by_endpoint.values()))


async def _call_each(
    due: Sequence[DueAttempt], call: Callable[[DueAttempt], Awaitable[T]]
) -> list[tuple[DueAttempt, T | None]]:
    """Each attempt with its answer, a bounded number of calls at a time; None where the call failed unexpectedly."""
    slots = asyncio.Semaphore(POLLS_AT_ONCE)

    async def one(attempt: DueAttempt) -> tuple[DueAttempt, T | None]:
        async with slots:
            try:
                return attempt, await call(attempt)
            except Exception:
                # It comes again when its timer does, and it delays no other.
                log.exception("provider_call_failed", attempt_id=str(attempt.attempt_id))
                return attempt, None

    return list(await asyncio.gather(*(one(attempt) for attempt in due)))
