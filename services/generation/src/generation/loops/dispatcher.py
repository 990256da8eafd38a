"""From the queue to the provider: claim with one statement, submit outside any, record the answer in a transaction.

``_update_breakers`` handles an endpoint that refuses (a 429, for instance), ``_apply`` the order that was refused; what
each answer proves stands in ``runpod.answers``.

A submission has a lease and a fence of its own, and is not leased work (``messaging.leases``): it must not be repeated.
If the process dies before the claim commits, nothing has happened. If it dies before it has committed that the request
is about to be sent (``submission_marks``), the order goes again after ``SEND_WITHIN_SECONDS``. If it dies after
that, the attempt's lease ends and the attempt counts as unanswered. An answer that is recorded after that meets a newer
fence token and cannot undo it.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from generation.changes import save_changes
from generation.domain import provider_events
from generation.domain.operator_words import operator_words
from generation.domain.policy import BreakerPolicy, Policy
from generation.job_requests import JobRequests
from generation.metrics import CLAIM_SECONDS, QUEUE_WAIT_SECONDS, SUBMISSIONS, SUBMITTED_SECONDS
from generation.repository.breaker import pause_queue, record_failure, record_success
from generation.repository.fair_queue import ClaimedOrder, claim_orders
from generation.repository.orders import LockedOrders, lock_orders
from generation.runpod.answers import ProviderRefused, ProviderRejected, ProviderUnanswered
from generation.runpod.client import RunPodClient
from generation.submission_marks import SubmissionMarks
from generation.wake_ups import WakeUps
from messaging.database import is_unavailable, single_statements
from messaging.failpoints import failpoint
from messaging.ids import new_id
from messaging.transaction import Transactions
from service_runtime.tracing import Origin, batch_span, mark_failed, work_span

_MAX_RECORD_TRIES: Final = 5
SEND_WITHIN_SECONDS: Final = 5.0
"""From the claim to the mark: a hundred times what it takes. No heartbeat: a mark that comes later is refused."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """Bounds of this process. Durations are in seconds."""

    concurrency: int
    poll_seconds: float
    lease_seconds: float


@dataclass(slots=True)
class _Answer:
    """The outcome of one submission: a job id, or the failure that says what it proves."""

    order: ClaimedOrder
    job_id: str | None
    failure: ProviderRefused | ProviderRejected | ProviderUnanswered | None
    claimed_at: float
    tries: int = 0


class Dispatcher:
    """``dispatch`` and ``record`` are rounds of loops; ``drain`` is called when the service stops."""

    def __init__(
        self,
        transactions: Transactions,
        client: RunPodClient,
        requests: JobRequests,
        endpoints: Sequence[str],
        policy: Policy,
        limits: DispatchLimits,
        breaker: BreakerPolicy,
        wake_ups: WakeUps,
    ) -> None:
        self._transactions = transactions
        self._client = client
        self._requests = requests
        self._endpoints = endpoints
        self._policy = policy
        self._limits = limits
        self._breaker = breaker
        self._wake_ups = wake_ups
        self._marks = SubmissionMarks(transactions, limits.lease_seconds)
        self._claiming: set[asyncio.Task[int]] = set()
        self._submitting: dict[str, set[asyncio.Task[None]]] = {endpoint: set() for endpoint in endpoints}
        # An endpoint that hangs, or is slow and busy, does not use up the slots of the others.
        self._share = max(1, limits.concurrency // len(endpoints))
        self._answers: list[_Answer] = []
        self._failing: set[str] = set()
        self._polled_at = 0.0
        self.answered = asyncio.Event()

    async def dispatch(self) -> None:
        """Claim as much as the endpoints and this process can take, and begin to submit it."""
        due = self._due_endpoints()
        outcomes = await asyncio.gather(*(self._dispatch(endpoint) for endpoint in due), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _dispatch(self, endpoint: str) -> None:
        while (free := self._share - len(self._submitting[endpoint])) > 0:
            claim = asyncio.create_task(self._claim(endpoint, free))
            self._claiming.add(claim)
            claim.add_done_callback(self._claiming.discard)
            # What was claimed is submitted, even if the service is told to stop before it knows of the commit.
            if await asyncio.shield(claim) < free:
                return

    def _due_endpoints(self) -> Sequence[str]:
        """Those that this process was woken for; all of them if only time has passed, and once in each poll."""
        named = self._wake_ups.take_endpoints()
        if named and time.monotonic() - self._polled_at < self._limits.poll_seconds:
            return [endpoint for endpoint in self._endpoints if endpoint in named]
        self._polled_at = time.monotonic()
        return self._endpoints

    async def record(self) -> None:
        """Record all answers that have come, in one transaction."""
        while self._answers:
            answers, self._answers = self._answers, []
            try:
                try:
                    await self._update_breakers(answers)
                except Exception:
                    # The breaker can wait, the job ids cannot.
                    await self._record(answers)
                    raise
                await self._record(answers)
            except BaseException as error:
                # Nor are they dropped when the service is told to stop or the round times out: ``drain`` comes after.
                self._answers += [answer for answer in answers if _may_retry(answer, error)]
                raise

    async def drain(self) -> None:
        """Record the answers of the submissions in flight as they come: dropping one would cost another run."""
        if self._claiming:
            await asyncio.wait(self._claiming)
        await self.record()
        while submitting := set().union(*self._submitting.values()):
            await asyncio.wait(submitting, return_when=asyncio.FIRST_COMPLETED)
            await self.record()

    async def _claim(self, endpoint: str, batch: int) -> int:
        began = time.perf_counter()
        async with single_statements(self._transactions.engine) as connection:
            claim = await claim_orders(
                connection,
                endpoint,
                [new_id() for _ in range(batch)],
                send_within_seconds=SEND_WITHIN_SECONDS,
                probe_seconds=self._limits.lease_seconds,
            )
        CLAIM_SECONDS.observe(time.perf_counter() - began)
        failpoint("dispatcher.after_claim")
        if claim.again_in_seconds is not None:
            asyncio.get_running_loop().call_later(claim.again_in_seconds, self._wake_ups.dispatch_at, [endpoint])
        for order in claim.orders:
            if order.attempt_number == 1:
                QUEUE_WAIT_SECONDS.labels(endpoint, order.lane).observe(order.waited_seconds)
            task = asyncio.create_task(self._submit(order, began))
            self._submitting[endpoint].add(task)
            task.add_done_callback(partial(self._submitted, endpoint))
        return len(claim.orders)

    def _submitted(self, endpoint: str, task: asyncio.Task[None]) -> None:
        self._submitting[endpoint].discard(task)
        if len(self._submitting[endpoint]) == self._share - 1:
            # This process's own bound may have cut the last claim short.
            self._wake_ups.dispatch_at([endpoint])

    async def _submit(self, order: ClaimedOrder, claimed_at: float) -> None:
        answer, may_be_sent = _Answer(order, None, None, claimed_at), False
        with work_span("submit", Origin(order.traceparent, order.generation_id, order.user_id)) as span:
            try:
                request = await self._requests.build(order)
                if not await self._may_send(order):
                    return
                failpoint("dispatcher.before_run")
                may_be_sent = True
                answer.job_id = await self._client.run(order.endpoint_id, request)
                failpoint("dispatcher.after_run")
            except (ProviderRefused, ProviderRejected, ProviderUnanswered) as failure:
                answer.failure = failure
                mark_failed(span, failure)
            except Exception as error:
                log.exception("submission_failed", generation_id=str(order.generation_id))
                # After the mark, an error of our own says as little of the job as no answer.
                detail = operator_words(f"{type(error).__name__}: {error}")
                answer.failure = ProviderUnanswered(detail) if may_be_sent else ProviderRejected(detail)
                mark_failed(span, error)
        self._answers.append(answer)
        self.answered.set()

    async def _may_send(self, order: ClaimedOrder) -> bool:
        """Whether it is committed that the request is about to be sent. If not, the attempt ends with its lease."""
        try:
            marked = await self._marks.mark(order)
        except Exception as error:  # noqa: BLE001 - nothing was sent, so there is nothing to record either
            log.warning("submission_not_marked", generation_id=str(order.generation_id), reason=str(error))
            return False
        if not marked:
            log.info("submission_withdrawn", generation_id=str(order.generation_id))
        return marked

    async def _update_breakers(self, answers: Sequence[_Answer]) -> None:
        """Count successes and failures, in transactions without orders: an endpoint is never locked after an order."""
        for answer in answers:
            endpoint, probe = answer.order.endpoint, answer.order.probe
            if isinstance(answer.failure, ProviderRefused | ProviderUnanswered):
                self._failing.add(endpoint)
                await self._record_failure(endpoint, answer.failure, probe=probe)
            elif probe or endpoint in self._failing:
                self._failing.discard(endpoint)
                async with self._transactions.begin() as tx:
                    await record_success(tx.connection, endpoint, probe=probe)
                self._wake_ups.dispatch_at([endpoint])

    async def _record_failure(
        self, endpoint: str, failure: ProviderRefused | ProviderUnanswered, *, probe: bool
    ) -> None:
        log.warning("submission_not_accepted", endpoint=endpoint, reason=str(failure), probe=probe)
        async with self._transactions.begin() as tx:
            await record_failure(tx.connection, endpoint, self._breaker, probe=probe)
            if isinstance(failure, ProviderRefused) and failure.retry_after_seconds is not None:
                # The provider's number may be nonsense. After the longest pause, one probe at a time finds out.
                pause = min(failure.retry_after_seconds, self._breaker.pauses.longest.total_seconds())
                await pause_queue(tx.connection, endpoint, pause)

    async def _record(self, answers: Sequence[_Answer]) -> None:
        with batch_span("record submissions", [answer.order.traceparent for answer in answers]):
            async with self._transactions.begin() as tx:
                locked = await lock_orders(tx.connection, (answer.order.generation_id for answer in answers))
                for answer in answers:
                    self._apply(locked, answer)
                await save_changes(tx, locked, self._wake_ups)
                failpoint("dispatcher.before_record")
        failpoint("dispatcher.after_record")
        for answer in answers:
            outcome = "accepted" if answer.failure is None else answer.failure.outcome
            SUBMISSIONS.labels(answer.order.endpoint, outcome).inc()
            SUBMITTED_SECONDS.observe(time.perf_counter() - answer.claimed_at)

    def _apply(self, locked: LockedOrders, answer: _Answer) -> None:
        claimed = answer.order
        order = locked.orders[claimed.generation_id]
        attempt = order.get_attempt(claimed.attempt_id)
        fence_token, detail = claimed.fence_token, str(answer.failure)
        if answer.job_id is not None:
            provider_events.submitted(order, attempt, fence_token, answer.job_id, self._policy, locked.now)
        elif isinstance(answer.failure, ProviderRefused):
            provider_events.refused(order, attempt, fence_token, detail, locked.now)
        elif isinstance(answer.failure, ProviderRejected):
            provider_events.rejected(order, attempt, fence_token, detail, self._policy, locked.now)
        else:
            provider_events.unanswered(order, attempt, fence_token, self._policy, locked.now)


def _may_retry(answer: _Answer, error: BaseException) -> bool:
    """An answer that cannot be recorded is given up after some tries. The attempt's lease ends and resolves it."""
    if isinstance(error, Exception) and not is_unavailable(error):
        answer.tries += 1
    return answer.tries < _MAX_RECORD_TRIES
