"""Tells everyone who waits when their turn will come: computed from the queue, published live, written nowhere.

Every replica does it, from the same rows and the same measured times; of two messages the newer one counts.
"""

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts import live
from generation.domain.estimates import Likely, OrderEstimate, busy_slot, estimate_active, estimate_waiting
from generation.domain.fair_forecast import EndpointState
from generation.domain.measured_times import MeasuredTimes, MeasureKey
from generation.metrics import ESTIMATING_SECONDS
from generation.repository.queue_states import QueueState, add_measured, get_measured, get_queue_states
from generation.track_record import TrackRecord
from messaging.broker import Broker
from messaging.database import single_statements
from messaging.live import publish_live

SHARE_SECONDS: Final = 5.0
"""How often the replicas share what they measured."""
USED_ROUNDS: Final = 30
"""A minute in which work waited, which need not be the last one."""
LEAST_USED: Final = 0.5
"""A queue that has just become long says little: most places are free for a moment."""


class Estimates:
    """``publish`` is the round of a loop."""

    def __init__(self, engine: AsyncEngine, broker: Broker, track_record: TrackRecord) -> None:
        self._engine = engine
        self._broker = broker
        self._track_record = track_record
        self._times = MeasuredTimes({})
        self._shared_at = float("-inf")
        self._told: set[str] = set()
        self._used: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=USED_ROUNDS))

    async def publish(self) -> None:
        """Estimate every order that waits or runs, and tell the gateways."""
        began = time.perf_counter()
        if time.monotonic() - self._shared_at >= SHARE_SECONDS:
            self._times = MeasuredTimes(await self._share())
            self._shared_at = time.monotonic()
        async with single_statements(self._engine) as connection:
            states = await get_queue_states(connection)
        for state in states:
            estimates = _estimate(state, self._times, self._used_share(state))
            self._track_record.give(estimates, state.at)
            # An endpoint where nothing is under way any more says so once.
            if estimates or state.endpoint in self._told:
                await publish_live(self._broker, live.ESTIMATES_SUBJECT, _message(state, estimates))
            (self._told.add if estimates else self._told.discard)(state.endpoint)
        ESTIMATING_SECONDS.observe(time.perf_counter() - began)

    def _used_share(self, state: QueueState) -> float:
        """The share of the endpoint's places that were taken, over the last rounds in which work waited."""
        used = self._used[state.endpoint]
        if state.paused_seconds <= 0 and any(user.room > 0 for user in state.users):
            used.append(min(1.0, len(state.active) / state.max_active))
        return max(LEAST_USED, sum(used) / len(used)) if used else 1.0

    async def _share(self) -> Mapping[MeasureKey, Sequence[float]]:
        measured = self._track_record.take()
        try:
            async with self._engine.begin() as connection:
                if measured:
                    await add_measured(connection, measured)
                return await get_measured(connection)
        except Exception:
            self._track_record.requeue(measured)
            raise


def _estimate(state: QueueState, times: MeasuredTimes, used_share: float) -> list[OrderEstimate]:
    endpoint = EndpointState(
        max_active=state.max_active,
        virtual_time=state.virtual_time,
        paused_seconds=state.paused_seconds,
        lanes=state.lanes,
        users=state.users,
        busy=[busy_slot(one, times) for one in state.active],
    )
    return [*(estimate_active(one, times) for one in state.active), *estimate_waiting(endpoint, times, used_share)]


def _message(state: QueueState, estimates: Iterable[OrderEstimate]) -> live.QueueEstimates:
    users: defaultdict[UUID, list[live.OrderEstimate]] = defaultdict(list)
    for one in estimates:
        users[one.user_id].append(
            live.OrderEstimate(
                generation_id=one.generation_id,
                queue_position=one.position,
                start_seconds=None if one.start is None else _rounded(one.start),
                completion_seconds=_rounded(one.completion),
            )
        )
    return live.QueueEstimates(
        endpoint=state.endpoint, made_at=state.at, users={user: tuple(told) for user, told in users.items()}
    )


def _rounded(seconds: Likely) -> tuple[float, float]:
    return round(seconds.p50, 1), round(seconds.p90, 1)
