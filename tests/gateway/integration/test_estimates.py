"""What a user is told about when: from generation's live messages, in answers and in the event stream."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from contracts.generation import GenerationQueued, GenerationStarted
from contracts.live import ESTIMATES_SUBJECT, OrderEstimate, QueueEstimates
from messaging.ids import new_id
from messaging.live import publish_live
from tests.gateway.harness import CLIP, Client, GatewayHarness, now
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)

UNKNOWN = dict.fromkeys(
    (
        "queue_position",
        "estimated_start_at",
        "estimated_start_p90_at",
        "estimated_completion_at",
        "estimated_completion_p90_at",
    )
)


def told(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in UNKNOWN}


async def say(
    harness: GatewayHarness, user: Client, *estimates: OrderEstimate, made_at: datetime | None = None
) -> None:
    """Generation tells this user, and a user who is not here."""
    generation = await harness.producer("generation")
    await generation.broker.connected()
    message = QueueEstimates(
        endpoint="video", made_at=made_at or now(), users={user.user_id: estimates, new_id(): estimates}
    )
    await publish_live(generation.broker, ESTIMATES_SUBJECT, message)


def estimate(generation_id: str, position: int | None, start: float | None, completion: float) -> OrderEstimate:
    return OrderEstimate(
        generation_id=UUID(generation_id),
        queue_position=position,
        start_seconds=None if start is None else (start, 2 * start),
        completion_seconds=(completion, 2 * completion),
    )


async def shown(user: Client, generation_id: str) -> dict[str, Any]:
    return dict((await user.get(f"/v1/generations/{generation_id}")).json())


async def test_an_order_shows_its_position_and_its_times_until_they_are_over(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.05)
    user, stranger = harness.user(gateway), harness.user(gateway)
    generation_id = (await user.order(CLIP)).json()["id"]
    assert told(await shown(user, generation_id)) == UNKNOWN

    async def told_position(expected: int | None) -> bool:
        return bool((await shown(user, generation_id))["queue_position"] == expected)

    await say(harness, user, estimate(generation_id, 7, 60.0, 100.0))
    await eventually(lambda: told_position(7), what="the position in the answer")
    answer = await shown(user, generation_id)
    start, late_start, completion, late_completion = (
        datetime.fromisoformat(answer[name]) - datetime.now(UTC) for name in list(UNKNOWN)[1:]
    )
    for moment, seconds in ((start, 60), (late_start, 120), (completion, 100), (late_completion, 200)):
        assert abs(moment.total_seconds() - seconds) < 30
    [listed] = (await user.get("/v1/generations")).json()["items"]
    assert told(listed) == told(answer)
    assert (await stranger.get(f"/v1/generations/{generation_id}")).status_code == 404

    about = UUID(generation_id)
    running = GenerationStarted(
        generation_id=about, user_id=user.user_id, version=3, attempt_id=new_id(), attempt_number=1, started_at=now()
    )
    await harness.publish("generation", running, about=about)
    await eventually(lambda: told_position(None), what="no position, since it runs")
    answer = await shown(user, generation_id)
    assert answer["estimated_start_at"] is None
    assert answer["estimated_completion_at"] is not None, "whatever the newest message says of its start"
    await say(harness, user, estimate(generation_id, None, None, 0.0))

    async def told_soon() -> bool:
        answer = await shown(user, generation_id)
        completion = datetime.fromisoformat(answer["estimated_completion_at"])
        return timedelta(0) < completion - datetime.now(UTC) < timedelta(seconds=5)

    await eventually(told_soon, what="a moment that is not over")


async def test_what_generation_has_not_said_lately_is_not_shown(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.05)
    user = harness.user(gateway)
    generation_id = (await user.order(CLIP)).json()["id"]
    await say(harness, user, estimate(generation_id, 7, 60.0, 100.0), made_at=now() - timedelta(minutes=1))
    estimates = gateway.gateway.dependencies.live_events.estimates

    async def heard() -> bool:
        about = (user.user_id, UUID(generation_id), "queued")
        return estimates.find(*about, now() - timedelta(minutes=1)) is not None  # type: ignore[arg-type]

    await eventually(heard, what="the message")
    assert told(await shown(user, generation_id)) == UNKNOWN


async def test_the_stream_says_when_something_has_changed_and_not_each_time(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.05)
    user = harness.user(gateway)
    generation_id = (await user.order(CLIP)).json()["id"]
    async with user.events() as events:
        made_at = now()
        for second, (position, completion) in enumerate([(7, 100.0), (7, 99.0), (7, 98.5), (6, 97.0), (6, 140.0)]):
            said = estimate(generation_id, position, 60.0, completion)
            await say(harness, user, said, made_at=made_at + timedelta(seconds=second))
        queued = GenerationQueued(generation_id=UUID(generation_id), user_id=user.user_id, version=1, lane="free")
        heard = []
        async for event in events:
            if event.name == "generation.estimated":
                assert event.id is None, "it is no part of the history"
                heard.append(event.data)
            if len(heard) == 1:
                break
        await harness.publish("generation", queued, about=UUID(generation_id))
        async for event in events:
            if event.name == "generation.estimated":
                heard.append(event.data)
            if heard[-1]["queue_position"] == 6 and heard[-1]["estimated_completion_at"] > _at(made_at, 130):
                break
    assert len(heard) <= 3
    assert heard[-1]["generation_id"] == generation_id


def _at(made_at: datetime, seconds: float) -> str:
    return (made_at + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
