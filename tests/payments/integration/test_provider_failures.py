"""A provider that refuses, hangs or talks nonsense costs time, holds up nobody else, and is told to somebody."""

import asyncio
import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from local_platform.payment_providers.webhooks import Misbehaviour
from payments import driver, operations
from payments.handlers import CHECKOUT_REFUSED
from payments.tables import payment_transactions, refunds, sweeps
from tests.payments.integration.conftest import Desk


def counted(metric: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(metric, labels) or 0.0


async def change(desk: Desk, provider: str, **values: Any) -> None:
    async with desk.transactions.begin() as tx:
        of_provider = sa.update(payment_transactions).where(payment_transactions.c.provider == provider)
        await tx.connection.execute(of_provider.values(**values))


async def finished_sweeps(desk: Desk) -> set[str]:
    async with desk.transactions.begin() as tx:
        return set(
            (await tx.connection.execute(sa.select(sweeps.c.name).where(sweeps.c.finished_at.is_not(None)))).scalars()
        )


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_one_refused_look_does_not_strand_a_payment(desk: Desk, status: int) -> None:
    row = await desk.open()
    desk.stripe.account.sender.behave(Misbehaviour(drop=1))
    await desk.fail_next("/v1/checkout/sessions/", status)
    await desk.look_again()
    assert (await desk.payment(row.payment_id)).next_look_at is not None
    assert await desk.open_reviews() == ([] if status in (401, 403) else ["look_refused"])
    desk.stripe.account.pay(row.provider_reference)
    await desk.look_again()
    assert (await desk.payment(row.payment_id)).status == "settled"
    assert await desk.open_reviews() == []


async def test_a_refused_look_is_made_again_after_an_hour_at_least_and_a_day_at_most(desk: Desk) -> None:
    row = await desk.open()
    for age, hours in ((timedelta(0), 1), (timedelta(hours=10), 5), (timedelta(days=9), 24)):
        await desk.make_older(row.payment_id, seconds=age.total_seconds())
        await desk.fail_next("/v1/checkout/sessions/", 404)
        await desk.look_again()
        async with desk.transactions.begin() as tx:
            wait = sa.select(payment_transactions.c.next_look_at - sa.func.now())
            assert abs((await tx.connection.execute(wait)).scalar_one() - timedelta(hours=hours)) < timedelta(minutes=1)


async def test_a_key_that_is_not_taken_is_counted_for_an_alert(desk: Desk) -> None:
    await desk.open()
    labels = {"provider": "stripe", "call": "look_up", "outcome": "denied"}
    before = counted("payments_provider_calls_total", **labels)
    await desk.fail_next("/v1/checkout/sessions/", 401)
    await desk.look_again()
    assert counted("payments_provider_calls_total", **labels) == before + 1


async def test_unpaid_payments_still_expire_after_a_key_was_wrong_for_a_while(desk: Desk) -> None:
    user = uuid4()
    payments = [await desk.create("nowpayments", user=user) for _ in range(desk.policy.max_open_payments)]
    await desk.pump()
    key, desk.nowpayments._api_key = desk.nowpayments._api_key, "changed"
    await desk.look_again()
    desk.nowpayments._api_key = key
    for payment_id in payments:
        await desk.make_older(payment_id, days=20)
    await desk.look_again()
    assert {(await desk.payment(payment_id)).status for payment_id in payments} == {"expired"}


async def test_a_payment_that_its_provider_does_not_know_any_more_stops_counting_as_open(desk: Desk) -> None:
    row = await desk.open("btcpay")
    del desk.btcpay.invoices[row.provider_reference]
    await desk.look_again()
    assert (await desk.payment(row.payment_id)).status == "pending"
    await desk.make_older(row.payment_id, days=1)
    await desk.look_again()
    found = await desk.payment(row.payment_id)
    assert found.status == "expired"
    assert found.next_look_at is not None


async def test_a_checkout_is_opened_once_the_key_is_right_again(desk: Desk) -> None:
    await desk.fail_next("/v1/checkout/sessions", 401, count=2)
    payment_id = await desk.create()
    await desk.pump()
    assert (await desk.payment(payment_id)).status == "created"
    await desk.look_again()
    assert (await desk.payment(payment_id)).status == "pending"


async def test_the_buyer_never_reads_the_providers_own_words(desk: Desk) -> None:
    await desk.fail_next("/v1/checkout/sessions", 400)
    payment_id = await desk.create()
    await desk.pump()
    found = await desk.payment(payment_id)
    assert (found.status, found.detail) == ("failed", CHECKOUT_REFUSED)


async def test_a_refund_that_stripe_will_not_make_is_put_before_a_person(desk: Desk) -> None:
    row = await desk.open()
    desk.stripe.account.pay(row.provider_reference)
    await desk.look_again()
    await desk.fail_next("/v1/refunds", 400, method="POST")
    async with desk.transactions.begin() as tx:
        refund_id = await operations.order_refund(tx, row.payment_id, 1000, "ada", "goodwill", manual=False)
    await desk.pump()
    (review,) = await desk.reviews()
    assert (review.code, review.reference, review.expected) == (
        "refund_refused",
        str(refund_id),
        "1000 cents given back",
    )
    assert await desk.balance(row.payment_id) == 2750


async def test_a_refund_waits_for_the_right_key(desk: Desk) -> None:
    row = await desk.open()
    desk.stripe.account.pay(row.provider_reference)
    await desk.look_again()
    await desk.fail_next("/v1/refunds", 403, method="POST")
    async with desk.transactions.begin() as tx:
        await operations.order_refund(tx, row.payment_id, 1000, "ada", "goodwill", manual=False)
    await desk.pump()
    await desk.look_again()
    await desk.look_again()
    assert (await desk.payment(row.payment_id)).status == "partially_refunded"
    assert await desk.reviews() == []


async def test_a_provider_that_refuses_its_sweeps_does_not_stop_the_others(desk: Desk) -> None:
    failed = counted("payments_sweep_failures_total", sweep="compare", provider="stripe")
    desk.stripe._api_key = "rotated"
    await desk.sweep()
    assert {"compare:btcpay", "compare:nowpayments"} <= await finished_sweeps(desk)
    assert "compare:stripe" not in await finished_sweeps(desk)
    assert counted("payments_sweep_failures_total", sweep="compare", provider="stripe") == failed + 1


async def test_an_object_of_an_odd_shape_is_counted_and_the_rest_is_compared(desk: Desk) -> None:
    odd, row = await desk.open(), await desk.open()
    disputed = await desk.open()
    desk.stripe.account.sender.behave(Misbehaviour(drop=1))
    intent = desk.stripe.account.pay(disputed.provider_reference)["payment_intent"]
    desk.stripe.account.dispute(intent, None, "needs_response")
    (dispute,) = desk.stripe.account.disputes.values()
    dispute["status"] = None
    # Somebody else's money, which is of no session.
    desk.stripe.account.refund(intent, 100, None, {})["payment_intent"] = None
    del desk.stripe.account.sessions[odd.provider_reference]["payment_status"]
    desk.stripe.account.pay(row.provider_reference)
    desk.stripe.account.events.clear()
    before = counted("payments_unreadable_objects_total", provider="stripe")
    await desk.sweep()
    await desk.pump()
    assert (await desk.payment(row.payment_id)).status == "settled"
    assert counted("payments_unreadable_objects_total", provider="stripe") == before + 2


async def test_a_payment_whose_object_cannot_be_read_is_not_looked_at_again_at_once(desk: Desk) -> None:
    row = await desk.open()
    del desk.stripe.account.sessions[row.provider_reference]["payment_status"]
    await desk.look_again()
    async with desk.transactions.begin() as tx:
        later = sa.select(payment_transactions.c.next_look_at > sa.func.now(), payment_transactions.c.leased_until)
        assert tuple((await tx.connection.execute(later)).one()) == (True, None)


@pytest.mark.parametrize("provider", ["btcpay", "nowpayments"])
async def test_a_status_that_we_do_not_know_is_still_being_processed(desk: Desk, provider: str) -> None:
    row = await desk.open(provider)  # type: ignore[arg-type]
    if provider == "btcpay":
        desk.btcpay.invoices[row.provider_reference]["status"] = "Archived"
    else:
        desk.nowpayments.pay(row.provider_reference, "thinking")
    await desk.look_again()
    assert (await desk.payment(row.payment_id)).status == "pending"
    await desk.sweep()
    assert f"compare:{provider}" in await finished_sweeps(desk)


async def test_a_sweep_that_failed_is_made_in_the_next_round(desk: Desk) -> None:
    row = await desk.open()
    intent = desk.stripe.account.pay(row.provider_reference)["payment_intent"]
    await desk.look_again()
    desk.compare_daily()
    await desk.sweep()
    desk.stripe.account.sender.behave(Misbehaviour(drop=1))
    desk.stripe.account.refund(intent, None, None, {})
    await desk.fail_next("/v1/events", 503, count=2)
    await desk.sweep()
    await desk.sweep()
    await desk.pump()
    assert (await desk.payment(row.payment_id)).status == "refunded"


@pytest.mark.parametrize("call", ["open_checkout", "look_up"])
async def test_a_provider_that_hangs_holds_up_no_other(desk: Desk, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(driver, "CALL_SECONDS", 0.5)
    row = await desk.open("btcpay")
    hanging = [await desk.create() for _ in range(2 * driver.BATCH)]
    if call == "look_up":
        await desk.pump()
    desk.btcpay.sender.behave(Misbehaviour(drop=1))
    desk.btcpay.settle(row.provider_reference)
    await change(desk, "stripe", next_look_at=sa.func.now() - timedelta(minutes=1))
    await change(desk, "btcpay", next_look_at=sa.func.now())

    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(desk.providers["stripe"], call, hang)
    began = time.monotonic()
    await desk.pump()
    assert time.monotonic() - began < 30
    assert (await desk.payment(row.payment_id)).status == "settled"
    for payment_id in hanging:
        # Put off, all of them, and not only the oldest: each was asked for once and waits for its next time.
        found = await desk.payment(payment_id)
        assert (found.leased_until, found.looks) == (None, 1 if call == "open_checkout" else 2)


def test_no_lease_and_no_round_ends_before_the_calls_made_under_it() -> None:
    batch_seconds = 3 * driver.CALL_SECONDS
    assert driver.LEASE.total_seconds() > driver.CALL_SECONDS * 2
    assert driver.ROUND_SECONDS + batch_seconds < driver.ROUND_LIMIT_SECONDS


async def test_a_checkout_that_is_tried_again_when_little_time_is_left_is_opened(desk: Desk) -> None:
    await desk.fail_next("/v1/checkout/sessions", 500, method="POST", count=2)
    payment_id = await desk.create()
    await desk.pump()
    # Half an hour later: the expiry that was asked for first is one that Stripe does not take any more.
    await change(desk, "stripe", expires_at=sa.func.now() + timedelta(minutes=20))
    await desk.look_again()
    assert (await desk.payment(payment_id)).status == "pending"
    assert len(desk.stripe.account.sessions) == 1


async def test_a_partial_refund_is_not_made_twice_when_stripe_has_forgotten_its_key(desk: Desk) -> None:
    row = await desk.open()
    desk.stripe.account.pay(row.provider_reference)
    await desk.look_again()
    desk.stripe.account.sender.behave(Misbehaviour(drop=1))
    await desk.fail_next("/v1/refunds", method="POST", after_success=True)
    async with desk.transactions.begin() as tx:
        await operations.order_refund(tx, row.payment_id, 1000, "ada", "goodwill", manual=False)
    await desk.pump()
    await desk.http.post(f"{desk.stripe.account.public_url}/admin/acts/forget-idempotency-keys", json={})
    await desk.look_again()
    await desk.look_again()
    assert len(desk.stripe.account.refunds) == 1
    assert await desk.balance(row.payment_id) == 1650
    assert await desk.count(refunds) == 1


async def test_a_look_that_sees_a_refund_whose_answer_was_lost_knows_it_as_ours(desk: Desk) -> None:
    row = await desk.open()
    desk.stripe.account.pay(row.provider_reference)
    await desk.look_again()
    await desk.fail_next("/v1/refunds", method="POST", after_success=True)
    async with desk.transactions.begin() as tx:
        refund_id = await operations.order_refund(tx, row.payment_id, 1000, "ada", "goodwill", manual=False)
    await desk.drivers["stripe"]._refunds()
    async with desk.transactions.begin() as tx:
        await tx.connection.execute(sa.update(payment_transactions).values(next_look_at=sa.func.now()))
    await desk.drivers["stripe"]._payments()
    async with desk.transactions.begin() as tx:
        (found,) = await tx.connection.execute(sa.select(refunds))
    assert (found.refund_id, found.actor, found.state, found.next_try_at) == (refund_id, "ada", "succeeded", None)
