"""Estimates from real rows: the forecast is the order in which the queue serves, and what was measured is shared."""

import random
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from contracts.live import ESTIMATES_SUBJECT, QueueEstimates
from contracts.values import Lane
from generation.domain.fair_forecast import BusySlot, EndpointState, forecast
from generation.domain.measured_times import ENOUGH, WINDOW, Measure, MeasureKey
from generation.domain.order import Order
from generation.loops.estimates import Estimates
from generation.repository.fair_queue import ClaimedOrder
from generation.repository.queue_states import QueueState, add_measured, get_measured, get_queue_states
from tests.generation.harness import GenerationHarness, order, stored
from tests.generation.integration.test_handlers import timers

LANES: tuple[Lane, ...] = ("pro", "standard", "free")


class Listener:
    """A broker that keeps what is published live."""

    def __init__(self) -> None:
        self.heard: list[QueueEstimates] = []
        self.client: Any = self
        self.is_connected = True

    async def publish(self, subject: str, payload: bytes) -> None:
        assert subject == ESTIMATES_SUBJECT
        self.heard.append(msgspec.json.decode(payload, type=QueueEstimates))


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def estimates(harness: GenerationHarness, listener: Listener) -> Estimates:
    broker: Any = listener
    return Estimates(harness.engine, broker, harness.track_record)


async def state_of(harness: GenerationHarness, endpoint: str = "video") -> QueueState:
    async with harness.engine.connect() as connection:
        [state] = [one for one in await get_queue_states(connection) if one.endpoint == endpoint]
    return state


async def end(harness: GenerationHarness, *claimed: ClaimedOrder) -> None:
    """The jobs end, and give their places back."""

    def fail(one: Order, now: datetime) -> None:
        one.attempts[-1].end("failed", now)

    for one in claimed:
        await harness.change(one.generation_id, fail)


async def fill(harness: GenerationHarness, source: random.Random) -> None:
    """Users of all lanes with orders, the greedy ones with many; some turns have been taken already."""
    users = [(uuid4(), lane) for lane in LANES for _ in range(3)]
    for count in (25, 15):
        chosen = [source.choices(users, weights=range(1, 10))[0] for _ in range(count)]
        await harness.enqueue(*(order(user_id=user_id, lane=lane) for user_id, lane in chosen))
        if count == 25:
            await end(harness, *await harness.claim(sent=False))


@pytest.mark.parametrize("slots", [1, 4])
async def test_the_forecast_is_the_order_in_which_the_queue_serves(harness: GenerationHarness, slots: int) -> None:
    """Each place is claimed by itself, as where the queue is long: of users with the same turn the id decides then."""
    await harness.configure(max_active=slots)
    await fill(harness, random.Random(slots))
    state = await state_of(harness)
    endpoint = EndpointState(state.max_active, state.virtual_time, 0.0, state.lanes, state.users, [])
    foretold = [turn.order.generation_id for turn in forecast(endpoint, lambda one, lane: 10.0)]
    served: list[UUID] = []
    while places := [one for _ in range(slots) for one in await harness.claim(1, sent=False)]:
        served += [one.generation_id for one in places]
        await end(harness, *places)
    assert served == foretold
    assert len(served) == 40 - slots


async def test_what_cannot_be_served_now_has_no_position(
    harness: GenerationHarness, estimates: Estimates, listener: Listener
) -> None:
    upload = uuid4()
    ready, unverified = (
        order(),
        order("wan-2.2-i2v", uploads={"image": upload}, parameters={"prompt": "sea", "image": str(upload)}),
    )
    await harness.enqueue(ready, unverified)
    await estimates.publish()
    [heard] = listener.heard
    assert list(heard.users) == [ready.user_id]
    [told] = heard.users[ready.user_id]
    assert (told.generation_id, told.queue_position) == (ready.generation_id, 1)


async def test_a_job_is_told_its_start_and_then_its_completion(
    harness: GenerationHarness, estimates: Estimates, listener: Listener
) -> None:
    one = order()
    await harness.enqueue(one)
    await harness.claim()
    await estimates.publish()

    def begin(order: Order, now: datetime) -> None:
        order.attempts[-1].started_at = now - timedelta(minutes=30)

    await harness.change(one.generation_id, begin)
    await estimates.publish()
    waiting, running = (heard.users[one.user_id][0] for heard in listener.heard)
    assert waiting.queue_position is None
    assert waiting.start_seconds is not None
    assert running.start_seconds is None
    assert running.completion_seconds[0] > 0, "it takes longer than planned, and is expected later"


async def test_an_endpoint_without_work_says_so_once(
    harness: GenerationHarness, estimates: Estimates, listener: Listener
) -> None:
    one = order()
    await harness.enqueue(one)
    await estimates.publish()
    await harness.execute("UPDATE generation.video_generations SET deadline_at = now(), expires_at = now()")
    await timers(harness).process_timers()
    for _ in range(3):
        await estimates.publish()
    assert [bool(heard.users) for heard in listener.heard] == [True, False]


async def test_a_delivered_order_is_measured_and_shared_with_every_replica(
    harness: GenerationHarness, estimates: Estimates
) -> None:
    one = order()
    names: tuple[Measure, ...] = ("run", "handover")
    known = {MeasureKey(name, "wan-2.2-t2v", "pro"): [1.0] * ENOUGH for name in names}
    async with harness.engine.begin() as connection:
        await add_measured(connection, known)
    await harness.enqueue(one)
    await estimates.publish()
    [claimed] = await harness.claim()

    def run(order: Order, now: datetime) -> None:
        [attempt] = order.attempts
        assert attempt.prepared_at is not None
        attempt.started_at = attempt.prepared_at + timedelta(seconds=1)
        attempt.end("succeeded", attempt.started_at + timedelta(seconds=4))
        order.verifying_number = 1
        order.move_to("storing")

    await harness.change(one.generation_id, run)
    for _ in range(2):
        await harness.deliver(harness.handlers.asset_stored, stored(claimed))
    async with harness.engine.begin() as connection:
        await add_measured(connection, harness.track_record.take())
    async with harness.engine.connect() as connection:
        measured = await get_measured(connection)
    planned = (await harness.row(one.generation_id)).planned_seconds
    [run_ratio] = measured[MeasureKey("run", "wan-2.2-t2v", "standard")]
    [handover_seconds] = measured[MeasureKey("handover", "wan-2.2-t2v", "standard")]
    assert run_ratio == pytest.approx(4.0 / planned)
    assert handover_seconds == pytest.approx(1.0)
    assert len(measured[MeasureKey("wait", "wan-2.2-t2v", "standard")]) == 1


async def test_a_window_keeps_the_newest_values_of_all_replicas(harness: GenerationHarness) -> None:
    key = MeasureKey("run", "m", "pro")
    async with harness.engine.begin() as connection:
        for first in range(0, 3 * WINDOW, WINDOW // 2):
            await add_measured(connection, {key: [float(first + one) for one in range(WINDOW // 2)]})
        assert (await get_measured(connection))[key] == [float(one) for one in range(2 * WINDOW, 3 * WINDOW)]


async def test_a_user_at_the_cap_is_forecast_by_the_ends_of_their_own_jobs(harness: GenerationHarness) -> None:
    user_id = uuid4()
    await harness.enqueue(*(order(user_id=user_id, lane="free") for _ in range(5)))
    assert len(await harness.claim()) == 2
    state = await state_of(harness)
    [user] = state.users
    assert (user.room, user.ready_count, len(user.orders)) == (0, 3, 3)
    busy = [BusySlot(user_id, "free", 10.0), BusySlot(user_id, "free", 20.0)]
    endpoint = EndpointState(state.max_active, state.virtual_time, 0.0, state.lanes, state.users, busy)
    assert [turn.seconds for turn in forecast(endpoint, lambda one, lane: 15.0)] == [10.0, 20.0, 25.0]
