"""How far a worker is: straight on to core NATS, at most once a second for each attempt, and kept nowhere.

The first report of an attempt does change something: it shows that a worker began.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from sqlalchemy import text

from contracts.live import PROGRESS_SUBJECT, GenerationProgress
from generation.changes import Wakes, save_changes
from generation.domain.order import Policy
from generation.domain.provider_news import learn_job_id, started
from generation.domain.provider_reports import PlainWord
from generation.repository.orders import lock_orders
from messaging.broker import Broker
from messaging.live import publish_live
from messaging.transaction import Transactions

INTERVAL_SECONDS: Final = 1.0
_REMEMBERED: Final = 10_000
"""Attempts that reported last; about 3 MB."""

_FIND = text("""
    SELECT g.generation_id, g.user_id, a.attempt_number, a.status
    FROM generation.attempts AS a JOIN generation.video_generations AS g USING (generation_id)
    WHERE a.attempt_id = :attempt_id
""")


class ProgressReport(msgspec.Struct, frozen=True):
    """What a worker posts. ``job_id``, if it says it, is what the answer to the submission may have failed to say."""

    percent: Annotated[int, msgspec.Meta(ge=0, le=100)]
    step: Annotated[int, msgspec.Meta(ge=0)] | None = None
    steps: Annotated[int, msgspec.Meta(ge=0)] | None = None
    stage: Literal["rendering", "encoding", "uploading"] | None = None
    job_id: PlainWord | None = None


@dataclass(slots=True)
class _Reporting:
    generation_id: UUID
    user_id: UUID
    attempt_number: int
    begun: bool
    told_at: float


class ProgressReports:
    """One per process."""

    def __init__(self, transactions: Transactions, broker: Broker, policy: Policy, wakes: Wakes) -> None:
        self._policy = policy
        self._transactions = transactions
        self._broker = broker
        self._wakes = wakes
        self._reporting: OrderedDict[UUID, _Reporting] = OrderedDict()

    async def tell(self, attempt_id: UUID, report: ProgressReport) -> None:
        """Pass a report on; too soon after the last one, it is dropped."""
        known = self._reporting.get(attempt_id) or await self._find(attempt_id)
        if known is None:
            return
        if not known.begun:
            await self._begin(attempt_id, known.generation_id, report.job_id)
            known.begun = True
        now = time.monotonic()
        if now - known.told_at < INTERVAL_SECONDS:
            return
        known.told_at = now
        news = GenerationProgress(
            generation_id=known.generation_id,
            user_id=known.user_id,
            attempt_number=known.attempt_number,
            percent=report.percent,
            step=report.step,
            steps=report.steps,
            stage=report.stage,
        )
        await publish_live(self._broker, PROGRESS_SUBJECT, news)

    async def _find(self, attempt_id: UUID) -> _Reporting | None:
        async with self._transactions.engine.connect() as connection:
            row = (await connection.execute(_FIND, {"attempt_id": attempt_id})).first()
        if row is None:
            return None
        begun = row.status not in ("prepared", "unknown", "submitted")
        known = _Reporting(row.generation_id, row.user_id, row.attempt_number, begun, told_at=-INTERVAL_SECONDS)
        self._reporting[attempt_id] = known
        while len(self._reporting) > _REMEMBERED:
            self._reporting.popitem(last=False)
        return known

    async def _begin(self, attempt_id: UUID, generation_id: UUID, job_id: str | None) -> None:
        """Note that a worker began."""
        async with self._transactions.begin() as tx:
            locked = await lock_orders(tx.connection, [generation_id])
            order = locked.orders[generation_id]
            attempt = order.attempt(attempt_id)
            assert attempt is not None, "an attempt is never removed"
            learn_job_id(order, attempt, job_id, self._policy, locked.now)
            started(order, attempt, locked.now)
            await save_changes(tx, locked, self._wakes)
