"""In which order the queue will serve what waits now, and when: the fair queue of ``repository.fair_queue``, simulated.

It knows what waits and what runs now. What arrives later, fails or is cancelled it does not know: how far the forecasts
were off because of that is measured (``domain.measured_times``), and corrects them.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from contracts.values import Lane

HORIZON: Final = 1000
"""How many orders of an endpoint are forecast. Those behind them wait for longer than anyone can say."""


@dataclass(frozen=True, slots=True)
class WaitingOrder:
    """A queued order that may be served. ``planned_seconds`` are those of a warm worker, by the catalogue."""

    generation_id: UUID
    model_id: str
    planned_seconds: float


@dataclass(frozen=True, slots=True)
class WaitingUser:
    """A user's queue in one lane: its turn, how many jobs more it may have, and its orders, first come first.

    ``ready_count`` may be larger than the number of ``orders`` that were read.
    """

    user_id: UUID
    lane: Lane
    turn: int
    room: int
    ready_count: int
    orders: Sequence[WaitingOrder]


@dataclass(frozen=True, slots=True)
class LaneState:
    """A lane's share: what serving one order adds to its tag, the tag of its next order, and that of its last user."""

    lane: Lane
    stride: int
    next_tag: int
    virtual_time: int


@dataclass(frozen=True, slots=True)
class BusySlot:
    """A job that ends in about so many seconds, and gives its user's place back."""

    user_id: UUID
    lane: Lane
    seconds: float


@dataclass(frozen=True, slots=True)
class EndpointState:
    """One endpoint's queue at one moment."""

    max_active: int
    virtual_time: int
    paused_seconds: float
    lanes: Sequence[LaneState]
    users: Sequence[WaitingUser]
    busy: Sequence[BusySlot]


@dataclass(frozen=True, slots=True)
class Turn:
    """``position`` 1 is served next, in so many ``seconds``."""

    order: WaitingOrder
    user_id: UUID
    lane: Lane
    position: int
    seconds: float


@dataclass(slots=True)
class _User:
    queue: WaitingUser
    turn: int
    room: int
    served: int = 0
    listed: bool = False
    """Whether it stands among its lane's candidates."""


@dataclass(slots=True)
class _Lane:
    state: LaneState
    next_tag: int
    virtual_time: int
    candidates: list[tuple[int, UUID, _User]]
    """The users that may have a job more, by turn: a heap. Of equal turns the id decides, as in a claim of one."""

    def add(self, user: _User) -> None:
        """The user may be served, if an order is known and another job is allowed."""
        if user.listed or user.room <= 0 or user.served >= len(user.queue.orders):
            return
        user.listed = True
        heapq.heappush(self.candidates, (user.turn, user.queue.user_id, user))


def forecast(state: EndpointState, occupied_seconds: Callable[[WaitingOrder, Lane], float]) -> list[Turn]:
    """The next turns, at most ``HORIZON``; ``occupied_seconds`` is how long an order keeps its place at the endpoint.

    It ends early where it would have to serve an order that was not read.
    """
    lanes = {one.lane: _Lane(one, one.next_tag, one.virtual_time, []) for one in state.lanes}
    users = {(one.lane, one.user_id): _User(one, one.turn, one.room) for one in state.users if one.lane in lanes}
    for (lane, _), user in users.items():
        lanes[lane].add(user)
    ends: list[tuple[float, Lane, UUID]] = [(slot.seconds, slot.lane, slot.user_id) for slot in state.busy]
    heapq.heapify(ends)
    free, now, virtual_time = state.max_active - len(ends), max(0.0, state.paused_seconds), state.virtual_time
    turns: list[Turn] = []
    while len(turns) < HORIZON:
        while ends and ends[0][0] <= now:
            free += _end(heapq.heappop(ends), lanes, users)
        chosen = _next_lane(lanes, virtual_time) if free > 0 else None
        if chosen is None:
            if not ends:
                break
            now = ends[0][0]
            continue
        tag = max(chosen.next_tag, virtual_time)
        _, _, user = heapq.heappop(chosen.candidates)
        user_tag = max(user.turn, chosen.virtual_time)
        order = user.queue.orders[user.served]
        turns.append(Turn(order, user.queue.user_id, user.queue.lane, len(turns) + 1, now))
        chosen.next_tag, virtual_time = tag + chosen.state.stride, tag
        chosen.virtual_time = user_tag
        user.turn, user.room, user.served, user.listed = user_tag + 1, user.room - 1, user.served + 1, False
        if user.served == len(user.queue.orders) < user.queue.ready_count:
            break
        chosen.add(user)
        free -= 1
        lane = user.queue.lane
        heapq.heappush(ends, (now + occupied_seconds(order, lane), lane, user.queue.user_id))
    return turns


def _end(end: tuple[float, Lane, UUID], lanes: dict[Lane, _Lane], users: dict[tuple[Lane, UUID], _User]) -> int:
    """A job ends: its user may have another one. Returns the place that it leaves."""
    _, lane, user_id = end
    user = users.get((lane, user_id))
    if user is not None:
        user.room += 1
        lanes[lane].add(user)
    return 1


def _next_lane(lanes: dict[Lane, _Lane], virtual_time: int) -> _Lane | None:
    waiting = (one for one in lanes.values() if one.candidates)
    return min(waiting, key=lambda one: (max(one.next_tag, virtual_time), one.state.lane), default=None)
