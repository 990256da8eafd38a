"""Takes the bodies of webhooks: most are stored and acted on in one transaction, many bodies with one commit.

What cannot be acted on at once (its order is locked, it carries a file, it is unreadable or known already, or the
attempt fails) is stored alone, and ``loops.callbacks`` acts on it. In both ways a body is answered once it is stored.
Nothing waits for more than a second for what others have locked.
"""

import asyncio
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from generation.changes import save_changes
from generation.domain.policy import Policy
from generation.domain.provider_events import reported
from generation.domain.provider_reports import OutputReturned, UnreadableReport, read_report
from generation.metrics import CALLBACKS
from generation.repository.callbacks import INLINE_BYTES, MOST_TOGETHER, BodyNotAdded, ProcessedBody, add_callback
from generation.repository.orders import LockedOrders, lock_free_orders
from generation.wake_ups import WakeUps
from messaging.database import single_statements
from messaging.failpoints import failpoint
from messaging.transaction import Transactions
from service_runtime.tracing import batch_span

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    attempt_id: UUID
    body: bytes
    is_done: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class CallbackIntake:
    """One per process. What comes while one commit is under way shares the next."""

    def __init__(self, transactions: Transactions, policy: Policy, wake_ups: WakeUps) -> None:
        self._transactions = transactions
        self._policy = policy
        self._wake_ups = wake_ups
        self._waiting: list[_Waiting] = []
        self._acting: asyncio.Task[None] | None = None

    async def take(self, attempt_id: UUID, body: bytes) -> bool:
        """Store the body of a webhook, and act on it now or soon. Returns False if there is no room for it."""
        if len(body) <= INLINE_BYTES and await self._act(attempt_id, body):
            return True
        stored = await self._store(attempt_id, body)
        self._wake_ups.callbacks.set()
        return stored

    async def _act(self, attempt_id: UUID, body: bytes) -> bool:
        """Whether the body is stored and acted on."""
        waiting = _Waiting(attempt_id, body)
        self._waiting.append(waiting)
        if self._acting is None:
            # In no request's context: it acts for those that come meanwhile, too.
            self._acting = asyncio.create_task(self._act_on_all(), name="callback-intake", context=Context())
        return await waiting.is_done

    async def _act_on_all(self) -> None:
        # Let every request that is ready come in.
        await asyncio.sleep(0)
        while self._waiting:
            waiting, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
            try:
                done = await self._process(waiting)
            except BodyNotAdded:
                done = set()
            except Exception as error:  # noqa: BLE001 - whatever it is, they are stored and processed one by one
                log.warning("callbacks_not_acted_on", number=len(waiting), reason=str(error))
                done = set()
            for one in waiting:
                if not one.is_done.cancelled():
                    one.is_done.set_result(one in done)
        self._acting = None

    async def _process(self, waiting: Sequence[_Waiting]) -> set[_Waiting]:
        """Those that are stored and acted on: at most one of each attempt, because the room is counted for each."""
        first = {one.attempt_id: one for one in reversed(waiting)}
        async with self._transactions.begin() as tx:
            locked = await lock_free_orders(tx.connection, list(first))
            with batch_span("apply provider reports", [order.traceparent for order in locked.orders.values()]):
                processed = self._apply(locked, first)
                if processed:
                    await save_changes(tx, locked, self._wake_ups, processed=processed)
            failpoint("callbacks.before_commit")
        failpoint("callbacks.after_commit")
        for one in processed:
            CALLBACKS.labels("webhook", one.outcome).inc()
        return {first[one.attempt_id] for one in processed}

    def _apply(self, locked: LockedOrders, waiting: dict[UUID, _Waiting]) -> list[ProcessedBody]:
        processed = []
        for order in locked.orders.values():
            for attempt in order.attempts:
                one = waiting.get(attempt.attempt_id)
                if one is None:
                    continue
                try:
                    report = read_report(one.body, order.output_extension)
                except UnreadableReport:
                    continue
                if not isinstance(report, OutputReturned):
                    reported(order, attempt, report, self._policy, locked.now, locked.now)
                    processed.append(ProcessedBody(one.attempt_id, one.body, locked.now, report.outcome))
        return processed

    async def _store(self, attempt_id: UUID, body: bytes) -> bool:
        if len(body) > INLINE_BYTES:
            async with self._transactions.begin() as tx:
                return await add_callback(tx.connection, attempt_id, "webhook", body)
        # One statement is the cheapest way to keep one.
        async with single_statements(self._transactions.engine) as connection:
            return await add_callback(connection, attempt_id, "webhook", body)
