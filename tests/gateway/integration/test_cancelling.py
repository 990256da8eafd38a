"""The allowance for cancels of running work: a worker's time that nobody pays for is bounded."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from contracts.generation import (
    CancelGeneration,
    FailureCode,
    GenerationCancelling,
    GenerationDispatched,
    GenerationFailed,
)
from messaging.ids import new_id
from tests.gateway.harness import PICTURE, Client, GatewayHarness, Replica, now
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)

ALLOWANCE = {"free": 2, "standard": 3, "pro": 3}


async def gateway_with(harness: GatewayHarness, **allowance: int) -> Replica:
    return await harness.gateway(verdict_wait_seconds=0.05, running_cancels_per_day=ALLOWANCE | allowance)


async def orders(harness: GatewayHarness, user: Client, *statuses: str) -> list[UUID]:
    """Orders of a user that are shown in these statuses."""
    answers = await asyncio.gather(*(user.order(PICTURE) for _ in statuses))
    placed = [UUID(answer.json()["id"]) for answer in answers]
    for one, status in zip(placed, statuses, strict=True):
        await harness.rows("UPDATE gateway.generations SET status = :s WHERE generation_id = :id", s=status, id=one)
    return placed


async def cancel(user: Client, generation_id: UUID) -> Any:
    return await user.post(f"/v1/generations/{generation_id}/cancel")


async def may_stop_workers(harness: GatewayHarness, generation_id: UUID) -> list[bool]:
    """What each cancel of this generation told the generation service."""
    rows = await harness.rows(
        "SELECT convert_from(payload, 'UTF8')::jsonb AS cancel FROM gateway.outbox_messages"
        " WHERE subject = :subject AND correlation_id = :id ORDER BY created_at",
        subject=CancelGeneration.subject,
        id=generation_id,
    )
    return [row.cancel["stop_running"] for row in rows]


async def is_cancelling(user: Client, generation_id: UUID) -> bool:
    return bool((await user.get(f"/v1/generations/{generation_id}")).json()["status"] == "cancelling")


async def test_running_work_can_be_cancelled_as_often_as_the_plan_allows(harness: GatewayHarness) -> None:
    gateway = await gateway_with(harness)
    user = harness.user(gateway)
    assert (await user.post("/v1/quotes", PICTURE)).json()["terms"] == {"running_cancels_per_day": 2}
    [waiting, *running] = await orders(harness, user, "queued", "dispatching", "running", "running")

    first = await cancel(user, running[0])
    assert first.status_code == 202
    assert first.headers["RateLimit"].endswith(', "running-cancels";r=1;t=86400')
    assert (await cancel(user, running[0])).status_code == 202, "a repeated cancel counts once"
    assert (await cancel(user, running[1])).status_code == 202
    refused = await cancel(user, running[2])
    assert (refused.status_code, refused.json()["code"]) == (409, "cancel_allowance_used")
    assert 86_000 < int(refused.headers["Retry-After"]) <= 86_400
    assert refused.headers["RateLimit-Policy"].endswith(', "running-cancels";q=2;w=86400')
    assert await may_stop_workers(harness, running[0]) == [True, True]
    assert await may_stop_workers(harness, running[2]) == []

    assert (await cancel(user, waiting)).status_code == 202, "what waits can always be cancelled"
    assert await may_stop_workers(harness, waiting) == [False], "but only if no worker takes it meanwhile"

    await harness.rows("UPDATE gateway.running_cancellations SET cancelled_at = cancelled_at - interval '1 day'")
    assert (await cancel(user, running[2])).status_code == 202


async def test_two_cancels_at_once_do_not_share_the_last_place(harness: GatewayHarness) -> None:
    replicas = [await gateway_with(harness, free=1) for _ in range(2)]
    user = harness.user(replicas[0])
    users = [harness.user(replica, user.user_id) for replica in replicas]
    running = await orders(harness, user, *["running"] * 8)

    answers = await asyncio.gather(*(cancel(users[number % 2], one) for number, one in enumerate(running)))

    assert Counter(answer.status_code for answer in answers) == {202: 1, 409: 7}
    counted = await harness.rows("SELECT user_id FROM gateway.running_cancellations")
    assert [row.user_id for row in counted] == [user.user_id]


async def test_a_cancel_that_meets_a_worker_after_all_counts_too(harness: GatewayHarness) -> None:
    gateway = await gateway_with(harness, free=1)
    user = harness.user(gateway)
    [early, running] = await orders(harness, user, "queued", "running")
    assert (await cancel(user, early)).status_code == 202
    assert await may_stop_workers(harness, early) == [True]
    # It was shown as queued, and a worker had it by the time the cancel arrived.
    stopping = GenerationCancelling(generation_id=early, user_id=user.user_id, version=3)
    await harness.publish("generation", stopping, about=early)
    await eventually(lambda: is_cancelling(user, early), 30, "the announcement")

    refused = await cancel(user, running)
    assert (refused.status_code, refused.json()["code"]) == (409, "cancel_allowance_used")
    assert (await harness.user(gateway).order(PICTURE)).status_code == 202, "others are not concerned"


async def given_up(
    harness: GatewayHarness, user: Client, body: dict[str, Any], code: FailureCode, *, dispatched: bool
) -> None:
    """Place an order that fails, in the queue or when the provider has it."""
    order = UUID((await user.order(body)).json()["id"])
    if dispatched:
        sent = GenerationDispatched(
            generation_id=order,
            user_id=user.user_id,
            version=2,
            attempt_id=new_id(),
            attempt_number=1,
            endpoint_id="endpoint",
            provider_job_id="job",
            submitted_at=now(),
        )
        await harness.publish("generation", sent, about=order)
    failed = GenerationFailed(
        generation_id=order, user_id=user.user_id, version=3, code=code, detail="it failed", failed_at=now()
    )
    await harness.publish("generation", failed, about=order)

    async def is_failed() -> bool:
        return bool((await user.get(f"/v1/generations/{order}")).json()["status"] == "failed")

    await eventually(is_failed, 30, "the failure")


async def test_a_time_to_begin_that_is_missed_at_the_provider_counts_as_a_cancel(harness: GatewayHarness) -> None:
    gateway = await gateway_with(harness)
    user = harness.user(gateway)
    [running] = await orders(harness, user, "running")
    timed = PICTURE | {"start_within_seconds": 5}
    await given_up(harness, user, timed, "not_started_in_time", dispatched=False)
    await given_up(harness, user, timed, "execution_failed", dispatched=True)
    await given_up(harness, user, timed, "not_started_in_time", dispatched=True)
    last = await user.order(timed)
    assert last.status_code == 202
    assert last.headers["RateLimit"].split(", ")[-1].startswith('"running-cancels";r=1;')
    await given_up(harness, user, timed, "not_started_in_time", dispatched=True)

    refused = await user.order(timed)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["RateLimit-Policy"].endswith(', "running-cancels";q=2;w=86400')
    assert int(refused.headers["Retry-After"]) > 3600
    assert (await cancel(user, running)).status_code == 409, "both use one allowance"
    assert (await user.order(PICTURE)).status_code == 202, "without a time to begin it is taken"
    assert (await harness.user(gateway).order(timed)).status_code == 202, "others are not concerned"
    await harness.rows("UPDATE gateway.running_cancellations SET cancelled_at = cancelled_at - interval '2 days'")
    assert (await user.order(timed)).status_code == 202
