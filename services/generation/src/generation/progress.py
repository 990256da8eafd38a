"""Progress reports of workers: forwarded to core NATS, at most once a second for each attempt, and stored nowhere.

Only the first report of an attempt changes the order: it shows that a worker began.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec

from contracts.live import PROGRESS_SUBJECT, GenerationProgress
from generation.changes import save_changes
from generation.domain.loose_json import PlainWord
from generation.domain.policy import Policy
from generation.domain.provider_events import record_job_id, started
from generation.domain.statuses import UNSTARTED_ATTEMPT_STATUSES
from generation.repository.attempts import find_attempt
from generation.repository.orders import lock_orders
from generation.wake_ups import WakeUps
from messaging.broker import Broker
from messaging.database import single_statements
from messaging.live import publish_live
from messaging.transaction import Transactions

INTERVAL_SECONDS: Final = 1.0
MAX_PREVIEW_BYTES: Final = 32 * 1024
_JPEG: Final = b"\xff\xd8\xff"
_REMEMBERED: Final = 10_000
"""The attempts that reported last; about 3 MB."""


class ProgressReport(msgspec.Struct, frozen=True):
    """What a worker posts. ``job_id``, where given, helps if the answer to the submission was lost.

    ``preview`` is a JPEG in base64: a browser shows it, so it may be nothing else.
    """

    percent: Annotated[int, msgspec.Meta(ge=0, le=100)]
    step: Annotated[int, msgspec.Meta(ge=0)] | None = None
    steps: Annotated[int, msgspec.Meta(ge=0)] | None = None
    stage: Literal["rendering", "encoding", "uploading"] | None = None
    job_id: PlainWord | None = None
    node: Annotated[str, msgspec.Meta(max_length=100)] | None = None
    preview: Annotated[bytes, msgspec.Meta(max_length=MAX_PREVIEW_BYTES)] | None = None

    def __post_init__(self) -> None:
        if self.preview is not None and not self.preview.startswith(_JPEG):
            raise ValueError("the preview is no JPEG")


@dataclass(slots=True)
class _ReportingAttempt:
    generation_id: UUID
    user_id: UUID
    attempt_number: int
    started: bool
    forwarded_at: float


class ProgressReports:
    """One per process. ``node_names`` are those that a user may be shown."""

    def __init__(
        self,
        transactions: Transactions,
        broker: Broker,
        policy: Policy,
        wake_ups: WakeUps,
        node_names: frozenset[str],
    ) -> None:
        self._policy = policy
        self._node_names = node_names
        self._transactions = transactions
        self._broker = broker
        self._wake_ups = wake_ups
        self._reporting: OrderedDict[UUID, _ReportingAttempt] = OrderedDict()

    async def forward(self, attempt_id: UUID, report: ProgressReport) -> None:
        """Publish a report. One that comes too soon after the last is dropped."""
        known = self._reporting.get(attempt_id) or await self._find(attempt_id)
        if known is None:
            return
        if not known.started:
            await self._start(attempt_id, known.generation_id, report.job_id)
            known.started = True
        now = time.monotonic()
        if now - known.forwarded_at < INTERVAL_SECONDS:
            return
        known.forwarded_at = now
        progress = GenerationProgress(
            generation_id=known.generation_id,
            user_id=known.user_id,
            attempt_number=known.attempt_number,
            percent=report.percent,
            step=report.step,
            steps=report.steps,
            stage=report.stage,
            # A user reads it, so it may be nothing but one of our own names.
            node=report.node if report.node in self._node_names else None,
            preview=report.preview,
        )
        await publish_live(self._broker, PROGRESS_SUBJECT, progress)

    async def _find(self, attempt_id: UUID) -> _ReportingAttempt | None:
        async with single_statements(self._transactions.engine) as connection:
            found = await find_attempt(connection, attempt_id)
        if found is None:
            return None
        known = _ReportingAttempt(
            found.generation_id,
            found.user_id,
            found.attempt_number,
            started=found.status not in UNSTARTED_ATTEMPT_STATUSES,
            forwarded_at=-INTERVAL_SECONDS,
        )
        self._reporting[attempt_id] = known
        while len(self._reporting) > _REMEMBERED:
            self._reporting.popitem(last=False)
        return known

    async def _start(self, attempt_id: UUID, generation_id: UUID, job_id: str | None) -> None:
        async with self._transactions.begin() as tx:
            locked = await lock_orders(tx.connection, [generation_id])
            order = locked.orders[generation_id]
            attempt = order.get_attempt(attempt_id)
            record_job_id(order, attempt, job_id, self._policy, locked.now)
            started(order, attempt, locked.now)
            await save_changes(tx, locked, self._wake_ups)
