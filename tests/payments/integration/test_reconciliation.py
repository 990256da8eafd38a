"""What the sweeps find without a webhook, and what they must not report."""

import time
from datetime import timedelta

import sqlalchemy as sa

from local_platform.payment_providers.webhooks import Misbehaviour
from payments.tables import disputes, provider_events
from tests.payments.harness import PaymentsHarness


async def test_a_dispute_of_an_old_payment_is_found_with_its_events_gone(harness: PaymentsHarness) -> None:
    for act in ("dispute", "refund"):
        opened = await harness.buy()
        charge = await harness.charge_of(opened)
        # A part went back long ago: what is compared is everything that ever happened, not the last 30 days alone.
        old = harness.stripe.account.refund(charge, 500, None, {})
        await harness.poll_all()
        for found in (harness.stripe.account.sessions[opened.reference], old):
            found["created"] = int(time.time()) - 40 * 86400
        await harness.make_older(opened.payment_id, timedelta(days=40))
        harness.stripe.account.endpoints.clear()
        if act == "dispute":
            harness.stripe.account.dispute(charge, 2000, "needs_response")
        else:
            harness.stripe.account.refund(charge, 2000, None, {})
        harness.stripe.account.events.clear()
        await harness.run_sweeps()
        await harness.run_loops()
        status = "disputed" if act == "dispute" else "refunded"
        assert (await harness.payment(opened.payment_id)).status == status
        assert await harness.balance(opened.payment_id) == 0
        assert await harness.open_review_codes() == []


async def test_events_that_no_endpoint_was_there_for_are_asked_for(harness: PaymentsHarness) -> None:
    opened = await harness.open()
    harness.compare_daily()
    await harness.run_sweeps()
    harness.stripe.account.endpoints.clear()
    harness.stripe.account.pay(opened.reference)
    assert harness.stripe.account.undelivered == set()
    await harness.run_sweeps()
    await harness.run_loops()
    assert (await harness.payment(opened.payment_id)).status == "settled"
    assert await harness.count(provider_events) == 1


async def test_an_event_with_a_decimal_in_it_is_stored_like_any_other(harness: PaymentsHarness) -> None:
    opened = await harness.open()
    harness.stripe.sender.behave(Misbehaviour(drop=1))
    harness.stripe.account.sessions[opened.reference]["currency_conversion"] = {
        "amount_subtotal": 2500,
        "amount_total": 2500,
        "fx_rate": "1.25",
        "source_currency": "usd",
    }
    harness.stripe.account.pay(opened.reference)
    harness.compare_daily()
    await harness.run_sweeps()
    await harness.run_loops()
    assert await harness.count(provider_events) == 1
    assert (await harness.payment(opened.payment_id)).status == "settled"


async def test_a_refund_paid_by_hand_is_no_difference(harness: PaymentsHarness) -> None:
    opened = await harness.buy("btcpay")
    await harness.request_refund(opened.payment_id, 1000, manual=True)
    await harness.poll_all()
    await harness.run_sweeps()
    assert await harness.reviews() == []


async def test_a_credited_payment_that_became_invalid_is_put_before_a_person(
    harness: PaymentsHarness,
) -> None:
    opened = await harness.buy("btcpay")
    await harness.act_at_btcpay(opened, "invalid")
    await harness.poll_all()
    assert await harness.open_review_codes() == ["no_longer_paid"], "the webhook is enough: no sweep was made"
    await harness.run_sweeps()
    await harness.poll_all()
    (review,) = await harness.reviews()
    assert (review.code, review.payment_id, review.found) == ("no_longer_paid", opened.payment_id, "failed")
    assert await harness.balance(opened.payment_id) == 2750


async def test_a_payment_that_a_person_credited_is_not_reported_for_being_unpaid(harness: PaymentsHarness) -> None:
    opened = await harness.open("btcpay")
    await harness.act_at_btcpay(opened, "partial")
    await harness.poll_all()
    (review,) = await harness.reviews()
    await harness.resolve(review.review_id, "credited")
    await harness.poll_all()
    await harness.run_sweeps()
    assert await harness.open_review_codes() == []


async def test_a_refund_that_the_provider_forgets_is_put_before_a_person(harness: PaymentsHarness) -> None:
    opened = await harness.buy()
    refund = harness.stripe.account.refund(await harness.charge_of(opened), 500, None, {})
    await harness.poll_all()
    assert await harness.outcome(opened.payment_id) == ("partially_refunded", 2200)
    del harness.stripe.account.refunds[refund["id"]]
    for _ in range(2):
        await harness.run_sweeps()
        await harness.run_loops()
        (review,) = await harness.open_reviews()
        assert (review.code, review.expected) == ("missing_at_provider", refund["id"])
        assert await harness.outcome(opened.payment_id) == ("partially_refunded", 2200)


async def test_a_refund_after_a_forgotten_one_is_put_before_a_person_too(harness: PaymentsHarness) -> None:
    """It takes its credits meanwhile, and so does a dispute: what was shown once counts."""
    opened = await harness.buy()
    charge = await harness.charge_of(opened)
    forgotten = harness.stripe.account.refund(charge, 500, None, {})
    await harness.poll_all()
    del harness.stripe.account.refunds[forgotten["id"]]
    await harness.hint(opened)
    (review,) = await harness.open_reviews()
    await harness.resolve(review.review_id, "dismissed")
    await harness.hint(opened)
    assert await harness.open_reviews() == [], "it is decided"
    later = harness.stripe.account.refund(charge, 1000, None, {})
    await harness.hint(opened)
    (review,) = await harness.open_reviews()
    assert (review.code, review.expected) == ("missing_at_provider", forgotten["id"])
    assert later["id"] in review.found
    assert await harness.outcome(opened.payment_id) == ("partially_refunded", 1100)
    harness.stripe.account.dispute(charge, 500, "needs_response")
    await harness.hint(opened)
    assert await harness.outcome(opened.payment_id) == ("disputed", 550)
    harness.stripe.account.refunds[forgotten["id"]] = forgotten
    await harness.hint(opened)
    assert await harness.outcome(opened.payment_id) == ("disputed", 550)


async def test_a_dispute_that_grows_takes_more_and_is_written_down_so(harness: PaymentsHarness) -> None:
    opened = await harness.buy()
    dispute = harness.stripe.account.dispute(await harness.charge_of(opened), 1000, "needs_response")
    await harness.poll_all()
    assert await harness.balance(opened.payment_id) == 1650
    dispute["amount"] = 2500
    await harness.hint(opened)
    assert await harness.balance(opened.payment_id) == 0
    assert await harness.scalar(sa.select(disputes.c.amount_cents)) == 2500
