"""More orders than can be written soon: some are refused at once, and none that was accepted is lost."""

import asyncio
from collections import Counter
from functools import partial

import httpx
import pytest

from gateway.overload import VERDICTS_AWAITED
from messaging.ids import new_id
from tests.gateway.harness import GatewayHarness, Replica
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(120)

SLOW_WRITES = """
    CREATE FUNCTION gateway.write_slowly() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(54), pg_sleep(0.2);
        RETURN NEW;
    END $$
"""
ON_EACH_ORDER = """
    CREATE TRIGGER slow BEFORE INSERT ON gateway.generation_requests
    FOR EACH ROW EXECUTE FUNCTION gateway.write_slowly()
"""


async def order_at_once(harness: GatewayHarness, replica: Replica, count: int) -> list[httpx.Response]:
    """So many orders at a time, each of another user."""
    users = [harness.user(replica, new_id()) for _ in range(count)]
    return await asyncio.gather(*(user.order() for user in users))


async def _are_written(harness: GatewayHarness, count: int) -> bool:
    return len(await harness.rows("SELECT 1 FROM gateway.generation_requests")) == count


async def test_what_cannot_be_written_soon_is_refused_at_once_and_what_is_accepted_stands(
    harness: GatewayHarness,
) -> None:
    replica = await harness.gateway(verdict_wait_seconds=0.05)
    await harness.rows(SLOW_WRITES)
    await harness.rows(ON_EACH_ORDER)
    first = await order_at_once(harness, replica, 3)
    assert {answer.status_code for answer in first} == {202}, "nothing is known yet, so nobody is refused"

    flood = await order_at_once(harness, replica, 30)
    answers = Counter(answer.status_code for answer in flood)
    assert answers.keys() == {202, 429}, answers
    assert answers[202] >= 10, "as many as there are connections are taken in any case"
    refused = [answer for answer in flood if answer.status_code == 429]
    assert {(one.json()["code"], one.headers["Retry-After"]) for one in refused} == {("rate_limited", "1")}

    accepted = {answer.json()["id"] for answer in (*first, *flood) if answer.status_code == 202}
    written = await harness.rows("SELECT generation_id FROM gateway.generation_requests")
    assert {str(row.generation_id) for row in written} == accepted

    await harness.rows("DROP TRIGGER slow ON gateway.generation_requests")
    again = await order_at_once(harness, replica, 10)
    assert {answer.status_code for answer in again} == {202}


async def test_of_too_many_that_await_billing_the_longest_are_202_and_the_others_hear_it(
    harness: GatewayHarness,
) -> None:
    replica = await harness.gateway(verdict_wait_seconds=30)
    orders: set[asyncio.Task[httpx.Response]] = set()
    # So few at a time that none is refused, however slow the machine is.
    for count in range(8, VERDICTS_AWAITED + 5, 8):
        orders |= {asyncio.create_task(harness.user(replica, new_id()).order()) for _ in range(8)}
        await eventually(partial(_are_written, harness, count), 40, "the orders")
    early: set[asyncio.Task[httpx.Response]] = set()
    async with asyncio.timeout(40):
        while len(early) < 4:
            done, _ = await asyncio.wait(orders - early, return_when=asyncio.FIRST_COMPLETED)
            early |= done
    assert {task.result().status_code for task in early} == {202}
    assert len(early) == 4

    await harness.billing()
    late = await asyncio.gather(*(orders - early))
    assert {answer.status_code for answer in late} == {402}, "billing was asked, and they have no credits"
