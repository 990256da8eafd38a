"""The forecast serves the queue as the claim does: by lane, by turn, within the caps."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID, uuid4

from contracts.values import Lane
from generation.domain.fair_forecast import (
    HORIZON,
    BusySlot,
    EndpointState,
    LaneState,
    Turn,
    WaitingOrder,
    WaitingUser,
    forecast,
)

STRIDES: Final[dict[Lane, int]] = {"pro": 166_666, "standard": 333_333, "free": 1_000_000}
SECONDS: Final = 10.0


def waiting(count: int, lane: Lane = "standard", *, turn: int = 0, room: int = 8, user: int = 1) -> WaitingUser:
    """A user with so many orders."""
    orders = [WaitingOrder(uuid4(), "m", SECONDS) for _ in range(count)]
    return WaitingUser(UUID(int=user), lane, turn, room, count, orders)


def endpoint(
    *users: WaitingUser, slots: int = 2, busy: Sequence[BusySlot] = (), paused_seconds: float = 0.0
) -> EndpointState:
    lanes = [LaneState(lane, stride, 0, 0) for lane, stride in STRIDES.items()]
    return EndpointState(slots, 0, paused_seconds, lanes, users, busy)


def served(state: EndpointState) -> list[Turn]:
    return forecast(state, lambda order, lane: order.planned_seconds)


def of(user: WaitingUser, turns: Sequence[Turn]) -> list[tuple[int, float]]:
    """Position and wait of each of the user's orders."""
    return [(turn.position, turn.seconds) for turn in turns if turn.user_id == user.user_id]


def test_free_places_are_taken_at_once_and_the_next_ones_as_they_become_free() -> None:
    user = waiting(5)
    busy = [BusySlot(uuid4(), "free", 4.0)]
    assert of(user, served(endpoint(user, busy=busy))) == [(1, 0.0), (2, 4.0), (3, 10.0), (4, 14.0), (5, 20.0)]


def test_a_user_with_many_orders_delays_another_by_one_order() -> None:
    greedy, modest = waiting(50), waiting(1, user=2)
    turns = served(endpoint(greedy, modest, slots=1))
    assert of(modest, turns) == [(2, SECONDS)]
    assert of(greedy, turns)[1] == (3, 2 * SECONDS)


def test_a_user_waits_for_their_own_jobs_where_the_cap_says_so() -> None:
    greedy = waiting(3, room=0)
    busy = [BusySlot(greedy.user_id, "standard", 7.0)]
    assert [seconds for _, seconds in of(greedy, served(endpoint(greedy, slots=9, busy=busy)))] == [7.0, 17.0, 27.0]


def test_lanes_share_by_their_weights() -> None:
    pro, free = waiting(60, "pro", room=99), waiting(60, "free", room=99, user=2)
    first = [turn.lane for turn in served(endpoint(pro, free, slots=1))[:14]]
    assert first.count("pro") == 12
    assert first.count("free") == 2


def test_who_was_served_last_is_served_after_the_others() -> None:
    before, after = waiting(1, turn=5), waiting(1, turn=4, user=2)
    assert of(after, served(endpoint(before, after, slots=1))) == [(1, 0.0)]


def test_a_paused_queue_begins_after_its_pause() -> None:
    user = waiting(1)
    busy = [BusySlot(uuid4(), "free", 4.0), BusySlot(uuid4(), "free", 4.0)]
    assert of(user, served(endpoint(user, busy=busy, paused_seconds=30.0))) == [(1, 30.0)]


def test_a_forecast_ends_where_an_order_was_not_read() -> None:
    read = waiting(2)
    partly = WaitingUser(read.user_id, "standard", 0, 8, ready_count=9, orders=read.orders)
    other = waiting(5, turn=10, user=2)
    assert [turn.user_id for turn in served(endpoint(partly, other, slots=1))] == [partly.user_id] * 2


def test_a_forecast_is_bounded() -> None:
    assert len(served(endpoint(*(waiting(20, turn=number, user=number) for number in range(100))))) == HORIZON


def test_an_endpoint_whose_places_never_end_is_no_endless_loop() -> None:
    user = waiting(3, room=1)
    assert len(served(endpoint(user, slots=1))) == 3
    assert served(endpoint(user, slots=0)) == []


def test_a_user_of_an_unknown_id_frees_a_place_only() -> None:
    user = waiting(1, room=0)
    assert served(endpoint(user, slots=1, busy=[BusySlot(UUID(int=1), "pro", 1.0)])) == []
