"""Orders that billing does not answer: the gateway withdraws them, and billing decides once."""

import pytest

from gateway.withdrawals import withdraw_overdue
from tests.gateway.harness import CLIP, Client, GatewayHarness
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)

OVERDUE = "UPDATE gateway.generations SET expires_at = now() - interval '1 s', updated_at = now() - interval '2 min'"


async def in_status(user: Client, generation_id: str, status: str) -> bool:
    """Whether the generation is shown so."""
    return bool((await user.get(f"/v1/generations/{generation_id}")).json()["status"] == status)


async def test_an_order_that_billing_never_answered_ends_at_its_deadline(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.05)
    user = harness.user(gateway)
    order = (await user.order(CLIP, "lost")).json()
    # The request is lost on its way, as in a purge: billing never receives it.
    await harness.rows("DELETE FROM gateway.outbox_messages")
    await eventually(lambda: purged(harness), what="an empty stream")
    transactions = gateway.gateway.dependencies.transactions
    assert await withdraw_overdue(transactions) == 0, "its time is not over"

    await harness.rows(OVERDUE)
    assert await withdraw_overdue(transactions) == 1
    assert await withdraw_overdue(transactions) == 0, "once a minute is enough"
    await harness.billing()

    await eventually(lambda: in_status(user, order["id"], "refused"), 30, "the end of the order")
    shown = await user.get(f"/v1/generations/{order['id']}")
    assert shown.json()["failure"]["code"] == "expired"
    again = await user.order(CLIP, "lost")
    assert (again.status_code, again.json()["status"]) == (200, "refused")


async def test_an_order_that_billing_did_not_answer_in_its_time_to_start_ends(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.05)
    user = harness.user(gateway)
    order = (await user.order(CLIP | {"start_within_seconds": 60})).json()
    await harness.rows("UPDATE gateway.generations SET updated_at = now() - interval '2 min'")
    transactions = gateway.gateway.dependencies.transactions
    assert await withdraw_overdue(transactions) == 0, "its time is not over"
    await harness.rows("UPDATE gateway.generations SET start_before_at = now() - interval '1 s'")
    assert await withdraw_overdue(transactions) == 1
    assert (await user.get(f"/v1/generations/{order['id']}")).json()["start_before_at"] < order["expires_at"]


async def test_a_cancel_ends_an_order_that_billing_has_not_answered(harness: GatewayHarness) -> None:
    gateway = await harness.gateway(verdict_wait_seconds=0.05)
    user = harness.user(gateway)
    order = (await user.order(CLIP)).json()
    await harness.rows("DELETE FROM gateway.outbox_messages")
    await eventually(lambda: purged(harness), what="an empty stream")

    assert (await user.post(f"/v1/generations/{order['id']}/cancel")).status_code == 202
    await harness.billing()

    await eventually(lambda: in_status(user, order["id"], "cancelled"), 30, "the end of the order")
    timeline = (await user.get(f"/v1/generations/{order['id']}/timeline")).json()
    assert [entry["name"] for entry in timeline["items"]][-1] == "cancelled"
    assert (await user.post(f"/v1/generations/{order['id']}/cancel")).status_code == 409


async def purged(harness: GatewayHarness) -> bool:
    """Remove what the gateway's stream holds; False if it is not there yet."""
    return await harness.purge("GATEWAY")
