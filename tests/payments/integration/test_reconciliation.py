"""What the sweeps find when nobody tells us, and what they must not report."""

import time

from local_platform.payment_providers.webhooks import Misbehaviour
from payments import operations
from payments.tables import provider_events
from tests.payments.integration.conftest import Desk


async def paid(desk: Desk, provider: str = "stripe") -> object:
    row = await desk.open(provider)  # type: ignore[arg-type]
    if provider == "stripe":
        desk.stripe.account.pay(row.provider_reference)
    else:
        desk.btcpay.settle(row.provider_reference)
    await desk.look_again()
    return (await desk.payment(row.payment_id)).payment_id


async def test_a_dispute_of_an_old_payment_is_found_with_its_events_gone(desk: Desk) -> None:
    for act in ("dispute", "refund"):
        row = await desk.open()
        desk.stripe.account.pay(row.provider_reference)
        await desk.look_again()
        row = await desk.payment(row.payment_id)
        # A part went back long ago: what is compared is everything that ever happened, not the last 30 days alone.
        old = desk.stripe.account.refund(row.charge_reference, 500, None, {})
        await desk.look_again()
        for found in (desk.stripe.account.sessions[row.provider_reference], old):
            found["created"] = int(time.time()) - 40 * 86400
        await desk.make_older(row.payment_id, days=40)
        desk.stripe.account.endpoints.clear()
        if act == "dispute":
            desk.stripe.account.dispute(row.charge_reference, 2000, "needs_response")
        else:
            desk.stripe.account.refund(row.charge_reference, 2000, None, {})
        desk.stripe.account.events.clear()
        await desk.sweep()
        await desk.pump()
        status = "disputed" if act == "dispute" else "refunded"
        assert (await desk.payment(row.payment_id)).status == status
        assert await desk.balance(row.payment_id) == 0
        assert await desk.open_reviews() == []


async def test_events_that_no_endpoint_was_there_for_are_asked_for(desk: Desk) -> None:
    row = await desk.open()
    desk.compare_daily()
    await desk.sweep()
    desk.stripe.account.endpoints.clear()
    desk.stripe.account.pay(row.provider_reference)
    assert desk.stripe.account.undelivered == set()
    await desk.sweep()
    await desk.pump()
    assert (await desk.payment(row.payment_id)).status == "settled"
    assert await desk.count(provider_events) == 1


async def test_an_event_with_a_decimal_in_it_is_stored_like_any_other(desk: Desk) -> None:
    row = await desk.open()
    desk.stripe.account.sender.behave(Misbehaviour(drop=1))
    desk.stripe.account.sessions[row.provider_reference]["currency_conversion"] = {
        "amount_subtotal": 2500,
        "amount_total": 2500,
        "fx_rate": "1.25",
        "source_currency": "usd",
    }
    desk.stripe.account.pay(row.provider_reference)
    desk.compare_daily()
    await desk.sweep()
    await desk.pump()
    assert await desk.count(provider_events) == 1
    assert (await desk.payment(row.payment_id)).status == "settled"


async def test_a_refund_paid_by_hand_is_no_difference(desk: Desk) -> None:
    payment_id = await paid(desk, "btcpay")
    async with desk.transactions.begin() as tx:
        await operations.order_refund(tx, payment_id, 1000, "ada", "sent to bc1q...", manual=True)  # type: ignore[arg-type]
    await desk.look_again()
    await desk.sweep()
    assert await desk.reviews() == []


async def test_a_credited_payment_that_its_provider_calls_invalid_is_put_before_a_person(desk: Desk) -> None:
    row = await desk.open("btcpay")
    desk.btcpay.settle(row.provider_reference)
    await desk.look_again()
    await desk.http.post(f"{desk.url_of_btcpay}/admin/invoices/{row.provider_reference}/invalid")
    await desk.look_again()
    await desk.sweep()
    await desk.look_again()
    (review,) = await desk.reviews()
    assert (review.code, review.payment_id, review.found) == ("no_longer_paid", row.payment_id, "failed")
    assert await desk.balance(row.payment_id) == 2750


async def test_a_payment_that_a_person_credited_is_not_reported_for_being_unpaid(desk: Desk) -> None:
    row = await desk.open("btcpay")
    await desk.http.post(f"{desk.url_of_btcpay}/admin/invoices/{row.provider_reference}/partial")
    await desk.look_again()
    (review,) = await desk.reviews()
    async with desk.transactions.begin() as tx:
        await operations.resolve_review(tx, review.review_id, "credited", "ada", "close enough")
    await desk.look_again()
    await desk.sweep()
    assert await desk.open_reviews() == []
