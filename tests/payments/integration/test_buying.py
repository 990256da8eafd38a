"""Buying credits: one checkout, one grant, whatever the provider does in between."""

import asyncio
from datetime import timedelta
from uuid import uuid4

from messaging.ids import new_id
from payments.domain import Snapshot
from payments.handlers import record_snapshot
from payments.repository import claim_due
from payments.tables import payment_transactions
from tests.payments.integration.conftest import Desk
from tests.support.waiting import eventually


async def test_a_pack_bought_through_stripes_page_is_granted_with_its_bonus(desk: Desk) -> None:
    row = await desk.open()
    answer = await desk.http.post(row.checkout_url, data={"method": "card"})
    assert answer.headers["location"] == "http://front/thanks"
    await eventually(lambda: desk.stripe.account.undelivered == set(), what="the webhook's delivery")
    await desk.pump()
    row = await desk.payment(row.payment_id)
    assert row.status == "settled"
    assert await desk.movements(row.payment_id) == {"purchase": 2500, "bonus": 250}
    commands = await desk.commands()
    assert [subject for subject, _ in commands] == ["billing.command.grant-credits.v1"] * 2
    assert {command["payment_id"] for _, command in commands} == {str(row.payment_id)}


async def test_the_same_command_twice_opens_one_checkout(desk: Desk) -> None:
    payment_id, user = new_id(), uuid4()
    await asyncio.gather(*(desk.create(user=user, payment_id=payment_id) for _ in range(2)))
    await asyncio.gather(*(desk.pump() for _ in range(5)))
    await desk.create(user=user, payment_id=payment_id)
    await desk.look_again()
    assert (await desk.payment(payment_id)).status == "pending"
    assert await desk.count(payment_transactions) == len(desk.stripe.account.sessions) == 1


async def test_a_user_may_keep_only_so_many_payments_open_also_when_they_come_at_once(desk: Desk) -> None:
    user = uuid4()
    await asyncio.gather(*(desk.create(user=user) for _ in range(20)))
    assert await desk.count(payment_transactions) == desk.policy.max_open_payments


async def test_a_lost_answer_of_stripe_leaves_one_session(desk: Desk) -> None:
    await desk.http.post(
        f"{desk.stripe.account.public_url}/admin/failures",
        json={"count": 1, "path": "/v1/checkout/sessions", "after_success": True},
    )
    payment_id = await desk.create()
    await desk.pump()
    assert (await desk.payment(payment_id)).status == "pending"
    assert len(desk.stripe.account.sessions) == 1


async def test_a_recorded_500_does_not_block_the_payment_for_a_day(desk: Desk) -> None:
    # The SDK's one retry and the first try share a key, under which Stripe replays the failure.
    await desk.http.post(
        f"{desk.stripe.account.public_url}/admin/failures", json={"count": 1, "path": "/v1/checkout/sessions"}
    )
    payment_id = await desk.create()
    await desk.pump()
    await desk.let_time_pass()
    await desk.pump()
    assert (await desk.payment(payment_id)).status == "pending"
    assert len(desk.stripe.account.sessions) == 1


async def test_crypto_is_credited_when_settled_and_confirmed_by_a_look(desk: Desk) -> None:
    for provider in ("btcpay", "nowpayments"):
        row = await desk.open(provider)  # type: ignore[arg-type]
        await desk.http.post(row.checkout_url)
        hinted = row.hints
        payment_id = row.payment_id

        async def told(payment_id: object = payment_id, hinted: int = hinted) -> bool:
            return (await desk.payment(payment_id)).hints > hinted  # type: ignore[arg-type]

        await eventually(told, what=f"the webhook of {provider}")
        await desk.let_time_pass()
        await desk.pump()
        assert (await desk.payment(payment_id)).status == "settled"
        assert await desk.balance(payment_id) == 2750


async def test_a_stale_look_of_a_stopped_worker_cannot_overwrite_a_newer_one(desk: Desk) -> None:
    row = await desk.open()
    await desk.let_time_pass()
    async with desk.transactions.begin() as tx:
        (claim,) = await claim_due(tx.connection, "stripe", 1, timedelta(seconds=-1))
    desk.stripe.account.pay(row.provider_reference)
    await desk.let_time_pass()
    await desk.pump()
    assert (await desk.payment(row.payment_id)).status == "settled"
    stale = Snapshot(reference=row.provider_reference, state="failed", paid_cents=0, currency="usd")
    async with desk.transactions.begin() as tx:
        await record_snapshot(tx, claim, stale)
    assert (await desk.payment(row.payment_id)).status == "settled"


async def test_a_session_that_expires_ends_the_payment(desk: Desk) -> None:
    row = await desk.open()
    desk.stripe.account.expire(row.provider_reference)
    await desk.let_time_pass()
    await desk.pump()
    assert (await desk.payment(row.payment_id)).status == "expired"
    assert await desk.movements(row.payment_id) == {}


async def test_a_provider_that_is_down_costs_time_and_nothing_else(desk: Desk) -> None:
    await desk.http.post(
        f"{desk.stripe.account.public_url}/admin/failures", json={"count": 6, "path": "/v1/", "status": 503}
    )
    payment_id = await desk.create()

    async def opened() -> bool:
        await desk.let_time_pass()
        await desk.pump()
        return bool((await desk.payment(payment_id)).status == "pending")

    await eventually(opened, timeout=30, what="the checkout after the outage")
    assert len(desk.stripe.account.sessions) == 1


async def test_an_unknown_pack_is_refused_before_any_provider_is_asked(desk: Desk) -> None:
    await desk.create(pack="free-money")
    await desk.pump()
    assert await desk.count(payment_transactions) == 0
    assert desk.stripe.requests == []


async def test_the_checkout_page_is_stripes_and_no_amount_comes_from_the_user(desk: Desk) -> None:
    await desk.open()
    (request,) = [r for r in desk.stripe.requests if r["method"] == "POST"]
    item = request["parameters"]["line_items"][0]
    assert item["price_data"]["unit_amount"] == "2500"
    assert request["parameters"]["client_reference_id"] == request["idempotency_key"]
