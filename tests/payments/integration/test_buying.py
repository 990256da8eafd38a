"""Buying credits: one checkout, one grant, even if the provider fails in between."""

import asyncio
from uuid import uuid4

import pytest

from contracts.payments import PROVIDERS, Provider
from messaging.ids import new_id
from payments.tables import payment_transactions
from tests.payments.harness import PaymentsHarness, run_due
from tests.support.waiting import eventually


async def test_a_pack_bought_through_stripes_page_is_granted_with_its_bonus(harness: PaymentsHarness) -> None:
    opened = await harness.open()
    answer = await harness.http.post(opened.checkout_url, data={"method": "card"})
    assert answer.headers["location"] == "http://front/thanks"
    await eventually(lambda: harness.stripe.account.undelivered == set(), what="the webhook's delivery")
    await harness.run_loops()
    assert (await harness.payment(opened.payment_id)).status == "settled"
    assert await harness.movements(opened.payment_id) == {"purchase": 2500, "bonus": 250}
    commands = await harness.billing_commands()
    assert [subject for subject, _ in commands] == ["billing.command.grant-credits.v1"] * 2
    assert {command["payment_id"] for _, command in commands} == {str(opened.payment_id)}


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_checkout_sends_the_buyer_where_the_frontend_wants(
    harness: PaymentsHarness, provider: Provider
) -> None:
    wanted = "https://app.example.com/credits?payment_id=42#paid"
    payment_id = await harness.create(provider, return_url=wanted)
    await harness.run_loops()
    checkout_url = (await harness.payment(payment_id)).checkout_url
    assert checkout_url is not None
    answer = await harness.http.post(checkout_url, data={"method": "card"})
    assert answer.headers["location"] == wanted


async def test_a_paid_payment_has_stripes_receipt(harness: PaymentsHarness) -> None:
    opened = await harness.open()
    assert (await harness.payment(opened.payment_id)).receipt_url is None
    harness.stripe.account.pay(opened.reference, "card")
    await harness.poll_all()
    [charge] = harness.stripe.account.charges.values()
    assert (await harness.payment(opened.payment_id)).receipt_url == charge["receipt_url"]


async def test_the_same_command_twice_opens_one_checkout(harness: PaymentsHarness) -> None:
    payment_id, user = new_id(), uuid4()
    await asyncio.gather(*(harness.create(user=user, payment_id=payment_id) for _ in range(2)))
    replicas = [harness.new_workers() for _ in range(5)]
    await asyncio.gather(*(run_due(workers["stripe"]) for workers in replicas))
    await harness.create(user=user, payment_id=payment_id)
    await harness.poll_all()
    assert (await harness.payment(payment_id)).status == "pending"
    assert await harness.count(payment_transactions) == len(harness.stripe.account.sessions) == 1


async def test_a_user_may_keep_only_so_many_payments_open_also_when_they_come_at_once(harness: PaymentsHarness) -> None:
    user = uuid4()
    await asyncio.gather(*(harness.create(user=user) for _ in range(20)))
    assert await harness.count(payment_transactions) == harness.policy.max_open_payments


async def test_a_lost_answer_of_stripe_leaves_one_session(harness: PaymentsHarness) -> None:
    await harness.fail_next("/v1/checkout/sessions", after_success=True)
    payment_id = await harness.create()
    await harness.run_loops()
    assert (await harness.payment(payment_id)).status == "pending"
    assert len(harness.stripe.account.sessions) == 1


async def test_a_recorded_500_does_not_block_the_payment_for_a_day(harness: PaymentsHarness) -> None:
    # The SDK's one retry and the first try share a key, under which Stripe replays the failure.
    await harness.fail_next("/v1/checkout/sessions")
    payment_id = await harness.create()
    await harness.run_loops()
    await harness.poll_all()
    assert (await harness.payment(payment_id)).status == "pending"
    assert len(harness.stripe.account.sessions) == 1


@pytest.mark.parametrize("provider", ["btcpay", "nowpayments"])
async def test_crypto_is_credited_when_settled_and_confirmed_by_a_poll(
    harness: PaymentsHarness, provider: Provider
) -> None:
    opened = await harness.open(provider)
    hinted = (await harness.payment(opened.payment_id)).hint_count
    await harness.http.post(opened.checkout_url)

    async def was_hinted() -> bool:
        return (await harness.payment(opened.payment_id)).hint_count > hinted

    await eventually(was_hinted, what=f"the webhook of {provider}")
    await harness.poll_all()
    assert (await harness.payment(opened.payment_id)).status == "settled"
    assert await harness.balance(opened.payment_id) == 2750


async def test_a_session_that_expires_ends_the_payment(harness: PaymentsHarness) -> None:
    opened = await harness.open()
    harness.stripe.account.expire(opened.reference)
    await harness.poll_all()
    assert (await harness.payment(opened.payment_id)).status == "expired"
    assert await harness.movements(opened.payment_id) == {}


async def test_a_provider_that_is_down_costs_time_and_nothing_else(harness: PaymentsHarness) -> None:
    await harness.fail_next("/v1/", 503, count=6)
    payment_id = await harness.create()

    async def opened() -> bool:
        await harness.poll_all()
        return (await harness.payment(payment_id)).status == "pending"

    await eventually(opened, timeout=30, what="the checkout after the outage")
    assert len(harness.stripe.account.sessions) == 1


async def test_an_unknown_pack_is_refused_before_any_provider_is_asked(harness: PaymentsHarness) -> None:
    await harness.create(pack="free-money")
    await harness.run_loops()
    assert await harness.count(payment_transactions) == 0
    assert harness.stripe.requests == []


async def test_the_checkout_page_is_stripes_and_no_amount_comes_from_the_user(harness: PaymentsHarness) -> None:
    await harness.open()
    (request,) = [r for r in harness.stripe.requests if r["method"] == "POST"]
    item = request["parameters"]["line_items"][0]
    assert item["price_data"]["unit_amount"] == "2500"
    assert request["parameters"]["client_reference_id"] == request["idempotency_key"]
