"""A provider that refuses, hangs or answers nonsense costs time, delays no other, and is reported."""

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from local_platform.payment_providers.webhooks import Misbehaviour
from payments.handlers.polls import CHECKOUT_REFUSED
from payments.loops import provider_calls, provider_workers
from payments.tables import payment_transactions, refunds, sweeps
from tests.payments.harness import PaymentsHarness, run_once


def counted(metric: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(metric, labels) or 0.0


async def finished_sweeps(harness: PaymentsHarness) -> set[str]:
    async with harness.transactions.begin() as tx:
        return set(
            (await tx.connection.execute(sa.select(sweeps.c.name).where(sweeps.c.finished_at.is_not(None)))).scalars()
        )


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_one_refused_poll_does_not_strand_a_payment(harness: PaymentsHarness, status: int) -> None:
    opened = await harness.open()
    harness.stripe.sender.behave(Misbehaviour(drop=1))
    await harness.fail_next("/v1/checkout/sessions/", status)
    await harness.poll_all()
    assert (await harness.payment(opened.payment_id)).next_poll_at is not None
    assert await harness.open_review_codes() == ([] if status in (401, 403) else ["look_refused"])
    harness.stripe.account.pay(opened.reference)
    await harness.poll_all()
    assert (await harness.payment(opened.payment_id)).status == "settled"
    assert await harness.open_review_codes() == []


async def test_a_refused_poll_is_repeated_within_an_hour_and_a_day(harness: PaymentsHarness) -> None:
    opened = await harness.open()
    for age, hours in ((timedelta(0), 1), (timedelta(hours=10), 5), (timedelta(days=9), 24)):
        await harness.make_older(opened.payment_id, age)
        await harness.fail_next("/v1/checkout/sessions/", 404)
        await harness.poll_all()
        wait = await harness.scalar(sa.select(payment_transactions.c.next_look_at - sa.func.now()))
        assert abs(wait - timedelta(hours=hours)) < timedelta(minutes=1)


async def test_a_key_that_is_not_taken_is_counted_for_an_alert(harness: PaymentsHarness) -> None:
    await harness.open()
    labels = {"provider": "stripe", "call": "look_up", "outcome": "denied"}
    before = counted("payments_provider_calls_total", **labels)
    await harness.fail_next("/v1/checkout/sessions/", 401)
    await harness.poll_all()
    assert counted("payments_provider_calls_total", **labels) == before + 1


async def test_unpaid_payments_still_expire_after_a_key_was_wrong_for_a_while(harness: PaymentsHarness) -> None:
    user = uuid4()
    payments = [await harness.create("nowpayments", user=user) for _ in range(harness.policy.max_open_payments)]
    await harness.run_loops()
    account = harness.nowpayments.account
    harness.nowpayments.account = replace(account, api_key="changed")
    await harness.poll_all()
    harness.nowpayments.account = account
    for payment_id in payments:
        await harness.make_older(payment_id, timedelta(days=20))
    await harness.poll_all()
    assert {(await harness.payment(payment_id)).status for payment_id in payments} == {"expired"}


async def test_a_payment_that_its_provider_has_lost_stops_counting_as_open(
    harness: PaymentsHarness,
) -> None:
    opened = await harness.open("btcpay")
    del harness.btcpay.invoices[opened.reference]
    await harness.poll_all()
    assert (await harness.payment(opened.payment_id)).status == "pending"
    await harness.make_older(opened.payment_id, timedelta(days=1))
    await harness.poll_all()
    found = await harness.payment(opened.payment_id)
    assert found.status == "expired"
    assert found.next_poll_at is not None


async def test_a_checkout_is_opened_once_the_key_is_right_again(harness: PaymentsHarness) -> None:
    await harness.fail_next("/v1/checkout/sessions", 401, count=2)
    payment_id = await harness.create()
    await harness.run_loops()
    assert (await harness.payment(payment_id)).status == "created"
    await harness.poll_all()
    assert (await harness.payment(payment_id)).status == "pending"


async def test_the_buyer_never_reads_the_providers_own_words(harness: PaymentsHarness) -> None:
    await harness.fail_next("/v1/checkout/sessions", 400)
    payment_id = await harness.create()
    await harness.run_loops()
    found = await harness.payment(payment_id)
    assert (found.status, found.detail) == ("failed", CHECKOUT_REFUSED)


async def test_a_refund_that_stripe_will_not_make_is_put_before_a_person(harness: PaymentsHarness) -> None:
    opened = await harness.buy()
    await harness.fail_next("/v1/refunds", 400, method="POST")
    refund_id = await harness.request_refund(opened.payment_id, 1000)
    await harness.run_loops()
    (review,) = await harness.reviews()
    assert (review.code, review.reference, review.expected) == (
        "refund_refused",
        str(refund_id),
        "1000 cents given back",
    )
    assert await harness.balance(opened.payment_id) == 2750


async def test_a_refund_waits_for_the_right_key(harness: PaymentsHarness) -> None:
    opened = await harness.buy()
    await harness.fail_next("/v1/refunds", 403, method="POST")
    await harness.request_refund(opened.payment_id, 1000)
    await harness.run_loops()
    await harness.poll_all()
    await harness.poll_all()
    assert (await harness.payment(opened.payment_id)).status == "partially_refunded"
    assert await harness.reviews() == []


async def test_a_provider_that_refuses_its_sweeps_does_not_stop_the_others(harness: PaymentsHarness) -> None:
    failed = counted("payments_sweep_failures_total", sweep="compare", provider="stripe")
    harness.stripe._api_key = "rotated"
    await harness.run_sweeps()
    assert {"compare:btcpay", "compare:nowpayments"} <= await finished_sweeps(harness)
    assert "compare:stripe" not in await finished_sweeps(harness)
    assert counted("payments_sweep_failures_total", sweep="compare", provider="stripe") == failed + 1


async def test_an_object_of_an_odd_shape_is_counted_and_the_rest_is_compared(harness: PaymentsHarness) -> None:
    odd, opened = await harness.open(), await harness.open()
    disputed = await harness.open()
    harness.stripe.sender.behave(Misbehaviour(drop=1))
    intent = harness.stripe.account.pay(disputed.reference)["payment_intent"]
    harness.stripe.account.dispute(intent, None, "needs_response")
    (dispute,) = harness.stripe.account.disputes.values()
    dispute["status"] = None
    # A refund that belongs to no session.
    harness.stripe.account.refund(intent, 100, None, {})["payment_intent"] = None
    del harness.stripe.account.sessions[odd.reference]["payment_status"]
    harness.stripe.account.pay(opened.reference)
    harness.stripe.account.events.clear()
    before = counted("payments_unreadable_objects_total", provider="stripe")
    await harness.run_sweeps()
    await harness.run_loops()
    assert (await harness.payment(opened.payment_id)).status == "settled"
    assert counted("payments_unreadable_objects_total", provider="stripe") == before + 2


async def test_a_payment_whose_object_is_unreadable_is_not_polled_at_once(harness: PaymentsHarness) -> None:
    opened = await harness.open()
    del harness.stripe.account.sessions[opened.reference]["payment_status"]
    await harness.poll_all()
    async with harness.transactions.begin() as tx:
        later = sa.select(payment_transactions.c.next_look_at > sa.func.now(), payment_transactions.c.leased_until)
        assert tuple((await tx.connection.execute(later)).one()) == (True, None)


@pytest.mark.parametrize("provider", ["btcpay", "nowpayments"])
async def test_a_status_that_we_do_not_know_is_still_being_processed(harness: PaymentsHarness, provider: str) -> None:
    opened = await harness.open(provider)  # type: ignore[arg-type]
    if provider == "btcpay":
        harness.btcpay.invoices[opened.reference]["status"] = "Archived"
    else:
        harness.nowpayments.pay(opened.reference, "thinking")
    await harness.poll_all()
    assert (await harness.payment(opened.payment_id)).status == "pending"
    await harness.run_sweeps()
    assert f"compare:{provider}" in await finished_sweeps(harness)


async def test_a_sweep_that_failed_is_made_in_the_next_round(harness: PaymentsHarness) -> None:
    opened = await harness.open()
    intent = harness.stripe.account.pay(opened.reference)["payment_intent"]
    await harness.poll_all()
    harness.compare_daily()
    await harness.run_sweeps()
    harness.stripe.sender.behave(Misbehaviour(drop=1))
    harness.stripe.account.refund(intent, None, None, {})
    await harness.fail_next("/v1/events", 503, count=2)
    await harness.run_sweeps()
    await harness.run_sweeps()
    await harness.run_loops()
    assert (await harness.payment(opened.payment_id)).status == "refunded"


@pytest.mark.parametrize("call", ["open_checkout", "look_up"])
async def test_a_provider_that_hangs_delays_no_other(
    harness: PaymentsHarness, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(provider_calls, "CALL_SECONDS", 0.5)
    opened = await harness.open("btcpay")
    hanging = [await harness.create() for _ in range(2 * provider_workers.AT_ONCE)]
    if call == "look_up":
        await harness.run_loops()
    harness.btcpay.sender.behave(Misbehaviour(drop=1))
    harness.btcpay.pay_in_full(opened.reference)
    await harness.change(payment_transactions.c.provider == "stripe", next_look_at=sa.func.now() - timedelta(minutes=1))
    await harness.change(payment_transactions.c.provider == "btcpay", next_look_at=sa.func.now())

    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(harness.providers["stripe"], call, hang)
    began = time.monotonic()
    await harness.run_loops()
    assert time.monotonic() - began < 30
    assert (await harness.payment(opened.payment_id)).status == "settled"
    for payment_id in hanging:
        # All of them are postponed, and not only the oldest: each was polled once and waits for its next time.
        assert (await harness.payment(payment_id)).poll_count == (1 if call == "open_checkout" else 2)
    leases = sa.select(sa.func.count()).where(payment_transactions.c.leased_until.is_not(None))
    assert await harness.scalar(leases) == 0


def test_work_is_not_cut_short_before_the_call_made_in_it() -> None:
    assert provider_workers.WORK_SECONDS > provider_calls.CALL_SECONDS


async def test_a_checkout_that_is_tried_again_when_little_time_is_left_is_opened(harness: PaymentsHarness) -> None:
    await harness.fail_next("/v1/checkout/sessions", 500, method="POST", count=2)
    payment_id = await harness.create()
    await harness.run_loops()
    # Half an hour later: the expiry that was asked for first is one that Stripe does not take any more.
    await harness.change(payment_transactions.c.provider == "stripe", expires_at=sa.func.now() + timedelta(minutes=20))
    await harness.poll_all()
    assert (await harness.payment(payment_id)).status == "pending"
    assert len(harness.stripe.account.sessions) == 1


async def test_a_partial_refund_is_not_made_twice_when_stripe_has_forgotten_its_key(harness: PaymentsHarness) -> None:
    opened = await harness.buy()
    harness.stripe.sender.behave(Misbehaviour(drop=1))
    await harness.fail_next("/v1/refunds", method="POST", after_success=True)
    await harness.request_refund(opened.payment_id, 1000)
    await harness.run_loops()
    await harness.http.post(f"{harness.stripe.account.public_url}/admin/acts/forget-idempotency-keys", json={})
    await harness.poll_all()
    await harness.poll_all()
    assert len(harness.stripe.account.refunds) == 1
    assert await harness.balance(opened.payment_id) == 1650
    assert await harness.count(refunds) == 1


async def test_a_poll_recognizes_our_refund_whose_answer_was_lost(harness: PaymentsHarness) -> None:
    opened = await harness.buy()
    await harness.fail_next("/v1/refunds", method="POST", after_success=True)
    refund_id = await harness.request_refund(opened.payment_id, 1000)
    await run_once(harness.workers["stripe"].refunds)
    await harness.change(sa.true(), next_look_at=sa.func.now())
    await run_once(harness.workers["stripe"].polls)
    assert await harness.count(refunds) == 1
    found = await harness.refund(refund_id)
    assert (found.actor, found.state) == ("ada", "succeeded")
    assert await harness.scalar(sa.select(refunds.c.next_try_at)) is None
