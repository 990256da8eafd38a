"""From the queue to the provider: claim in one transaction, call outside any, record the answer in another.

What happens if the process dies: before the claim commits, nothing; after it, the attempt's lease runs out and the
attempt counts as unanswered. An answer that comes after the lease meets a newer fence token and cannot undo that.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from generation.changes import Wakes, save_changes
from generation.domain import provider_news
from generation.domain.order import Order, Policy
from generation.job_requests import JobRequests
from generation.metrics import CLAIM_SECONDS, SUBMISSIONS, SUBMITTED_SECONDS
from generation.repository.orders import LockedOrders, lock_orders
from generation.repository.queue import ClaimedOrder, claim_orders, hold, record_failure, record_success
from generation.runpod_client import ProviderRefused, ProviderRejected, ProviderUnanswered, RunPodClient
from messaging.database import is_unavailable
from messaging.failpoints import failpoint
from messaging.ids import new_id
from messaging.transaction import Transactions

_MAX_RECORD_TRIES: Final = 5

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchLimits:
    """Bounds of this process. Durations are in seconds."""

    concurrency: int
    poll_seconds: float
    lease_seconds: float
    breaker_threshold: int
    breaker_first_seconds: float
    breaker_longest_seconds: float


@dataclass(slots=True)
class _Answer:
    """What came of one submission: a job id, or the failure that says what is known."""

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
        wakes: Wakes,
    ) -> None:
        self._transactions = transactions
        self._client = client
        self._requests = requests
        self._endpoints = endpoints
        self._policy = policy
        self._limits = limits
        self._wakes = wakes
        self._claiming: set[asyncio.Task[int]] = set()
        self._submitting: dict[str, set[asyncio.Task[None]]] = {endpoint: set() for endpoint in endpoints}
        # An endpoint that hangs, or is slow and busy, leaves the others theirs.
        self._share = max(1, limits.concurrency // len(endpoints))
        self._answers: list[_Answer] = []
        self._doubtful: set[str] = set()
        self._looked_at = 0.0
        self.answered = asyncio.Event()

    async def dispatch(self) -> None:
        """Claim as much as the endpoints and this process can take, and begin to submit it."""
        outcomes = await asyncio.gather(
            *(self._dispatch(endpoint) for endpoint in self._due_endpoints()), return_exceptions=True
        )
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _dispatch(self, endpoint: str) -> None:
        while (free := self._share - len(self._submitting[endpoint])) > 0:
            claim = asyncio.create_task(self._claim(endpoint, free))
            self._claiming.add(claim)
            claim.add_done_callback(self._claiming.discard)
            # What was claimed is to be submitted, even if the service is told to stop before the commit is known.
            if await asyncio.shield(claim) < free:
                return

    def _due_endpoints(self) -> Sequence[str]:
        """Those that something happened at, and all of them once in each poll: other replicas do not wake this one."""
        named = self._wakes.endpoints_to_look_at()
        if named and time.monotonic() - self._looked_at < self._limits.poll_seconds:
            return [endpoint for endpoint in self._endpoints if endpoint in named]
        self._looked_at = time.monotonic()
        return self._endpoints

    async def record(self) -> None:
        """Write down all answers that are there, in one transaction."""
        while self._answers:
            answers, self._answers = self._answers, []
            try:
                try:
                    await self._judge_endpoints(answers)
                except Exception:
                    # The breaker can wait, the job ids cannot.
                    await self._record(answers)
                    raise
                await self._record(answers)
            except BaseException as error:
                # Being told to stop, or taking too long, is no reason to forget them either: ``drain`` comes after it.
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
        async with self._transactions.begin() as tx:
            claim = await claim_orders(
                tx.connection,
                endpoint,
                [new_id() for _ in range(batch)],
                lease_seconds=self._limits.lease_seconds,
                probe_seconds=self._limits.lease_seconds,
            )
        CLAIM_SECONDS.observe(time.perf_counter() - began)
        failpoint("dispatcher.after_claim")
        if claim.again_in_seconds is not None:
            asyncio.get_running_loop().call_later(claim.again_in_seconds, self._wakes.look_at, [endpoint])
        for order in claim.orders:
            task = asyncio.create_task(self._submit(order, began))
            self._submitting[endpoint].add(task)
            task.add_done_callback(partial(self._submitted, endpoint))
        return len(claim.orders)

    def _submitted(self, endpoint: str, task: asyncio.Task[None]) -> None:
        self._submitting[endpoint].discard(task)
        if len(self._submitting[endpoint]) == self._share - 1:
            # The last claim may have been cut short by this process's own bound.
            self._wakes.look_at([endpoint])

    async def _submit(self, order: ClaimedOrder, claimed_at: float) -> None:
        answer = _Answer(order, None, None, claimed_at)
        try:
            request = self._requests.build(order)
            failpoint("dispatcher.before_run")
            answer.job_id = await self._client.run(order.endpoint_id, request)
            failpoint("dispatcher.after_run")
        except (ProviderRefused, ProviderRejected, ProviderUnanswered) as failure:
            answer.failure = failure
        except Exception as error:
            log.exception("submission_failed", generation_id=str(order.generation_id))
            answer.failure = ProviderRejected(f"{type(error).__name__}: {error}")
        self._answers.append(answer)
        self.answered.set()

    async def _judge_endpoints(self, answers: Sequence[_Answer]) -> None:
        """Tell the breaker. In transactions of its own, because an endpoint is locked before orders, never after."""
        for answer in answers:
            endpoint, probe = answer.order.endpoint, answer.order.probe
            if isinstance(answer.failure, ProviderRefused | ProviderUnanswered):
                self._doubtful.add(endpoint)
                await self._record_trouble(endpoint, answer.failure, probe=probe)
            elif probe or endpoint in self._doubtful:
                self._doubtful.discard(endpoint)
                async with self._transactions.begin() as tx:
                    await record_success(tx.connection, endpoint, probe=probe)
                self._wakes.look_at([endpoint])

    async def _record_trouble(
        self, endpoint: str, failure: ProviderRefused | ProviderUnanswered, *, probe: bool
    ) -> None:
        log.warning("provider_in_trouble", endpoint=endpoint, reason=str(failure), probe=probe)
        async with self._transactions.begin() as tx:
            await record_failure(
                tx.connection,
                endpoint,
                probe=probe,
                threshold=self._limits.breaker_threshold,
                first_seconds=self._limits.breaker_first_seconds,
                longest_seconds=self._limits.breaker_longest_seconds,
            )
            if isinstance(failure, ProviderRefused) and failure.retry_after_seconds is not None:
                # What the provider says may be nonsense: after that long, one probe at a time finds out.
                pause = min(failure.retry_after_seconds, self._limits.breaker_longest_seconds)
                await hold(tx.connection, endpoint, pause)

    async def _record(self, answers: Sequence[_Answer]) -> None:
        async with self._transactions.begin() as tx:
            locked = await lock_orders(tx.connection, (answer.order.generation_id for answer in answers))
            for answer in answers:
                self._apply(locked, answer)
            await save_changes(tx, locked, self._wakes)
            failpoint("dispatcher.before_record")
        failpoint("dispatcher.after_record")
        for answer in answers:
            outcome = "accepted" if answer.failure is None else type(answer.failure).__name__
            SUBMISSIONS.labels(answer.order.endpoint, outcome).inc()
            SUBMITTED_SECONDS.observe(time.perf_counter() - answer.claimed_at)

    def _apply(self, locked: LockedOrders, answer: _Answer) -> None:
        claimed = answer.order
        order: Order = locked.orders[claimed.generation_id]
        attempt = order.attempt(claimed.attempt_id)
        assert attempt is not None, "an attempt is never removed"
        fence_token, detail = claimed.fence_token, str(answer.failure)
        if answer.job_id is not None:
            provider_news.submitted(order, attempt, fence_token, answer.job_id, self._policy, locked.now)
        elif isinstance(answer.failure, ProviderRefused):
            provider_news.refused(order, attempt, fence_token, detail, locked.now)
        elif isinstance(answer.failure, ProviderRejected):
            provider_news.rejected(order, attempt, fence_token, detail, self._policy, locked.now)
        else:
            provider_news.unanswered(order, attempt, fence_token, self._policy, locked.now)


def _may_retry(answer: _Answer, error: BaseException) -> bool:
    """An answer that can never be recorded is given up; the end of its lease then settles the attempt."""
    if isinstance(error, Exception) and not is_unavailable(error):
        answer.tries += 1
    return answer.tries < _MAX_RECORD_TRIES
