"""What only a person can decide, and money that goes back."""

import pytest

from payments import operations
from payments.errors import RefundNotPossible, ReviewAlreadyResolved
from tests.payments.integration.conftest import Desk


async def look_again(desk: Desk) -> None:
    await desk.let_time_pass()
    await desk.pump()


@pytest.mark.parametrize(("act", "code"), [("partial", "underpaid"), ("late", "late")])
@pytest.mark.parametrize(
    ("resolution", "status", "balance"), [("credited", "settled", 2750), ("dismissed", "failed", 0)]
)
async def test_coins_that_do_not_match_wait_for_a_decision_and_follow_it(
    desk: Desk, act: str, code: str, resolution: str, status: str, balance: int
) -> None:
    row = await desk.open("btcpay")
    await desk.http.post(f"{desk.url_of_btcpay}/admin/invoices/{row.provider_reference}/{act}")
    await look_again(desk)
    assert (await desk.payment(row.payment_id)).status == "review"
    assert await desk.balance(row.payment_id) == 0
    (review,) = await desk.reviews()
    assert (review.code, review.expected) == (code, "2500 cents usd")
    async with desk.transactions.begin() as tx:
        await operations.resolve_review(tx, review.review_id, resolution, "ada", "spoke with the buyer")
    await look_again(desk)
    assert (await desk.payment(row.payment_id)).status == status
    assert await desk.balance(row.payment_id) == balance
    with pytest.raises(ReviewAlreadyResolved):
        async with desk.transactions.begin() as tx:
            await operations.resolve_review(tx, review.review_id, "credited", "eve", "again")


async def test_too_many_coins_grant_the_pack_and_report_the_surplus(desk: Desk) -> None:
    row = await desk.open("btcpay")
    await desk.http.post(f"{desk.url_of_btcpay}/admin/invoices/{row.provider_reference}/over")
    await look_again(desk)
    assert (await desk.payment(row.payment_id)).status == "settled"
    assert await desk.balance(row.payment_id) == 2750
    (review,) = await desk.reviews()
    assert (review.code, review.found) == ("overpaid", "3750 cents usd")


@pytest.mark.parametrize(
    ("status", "share", "expected"),
    [
        ("partially_paid", 0.4, "review"),
        ("finished", 1.5, "settled"),
        ("failed", 0.0, "failed"),
        ("expired", 0.0, "expired"),
    ],
)
async def test_nowpayments_statuses_mean_what_its_documentation_says(
    desk: Desk, status: str, share: float, expected: str
) -> None:
    row = await desk.open("nowpayments")
    desk.nowpayments.pay(row.provider_reference, status, share)
    await look_again(desk)
    assert (await desk.payment(row.payment_id)).status == expected


async def test_a_refund_ordered_by_us_goes_out_once_and_takes_its_credits(desk: Desk) -> None:
    row = await desk.open()
    desk.stripe.account.pay(row.provider_reference)
    await look_again(desk)
    async with desk.transactions.begin() as tx:
        await operations.order_refund(tx, row.payment_id, 1000, "ada", "goodwill", manual=False)
    await look_again(desk)
    await look_again(desk)
    assert (await desk.payment(row.payment_id)).status == "partially_refunded"
    assert await desk.balance(row.payment_id) == 1650
    assert len(desk.stripe.account.refunds) == 1


async def test_a_refund_whose_answer_was_lost_is_not_made_twice(desk: Desk) -> None:
    row = await desk.open()
    desk.stripe.account.pay(row.provider_reference)
    await look_again(desk)
    await desk.http.post(
        f"{desk.stripe.account.public_url}/admin/failures",
        json={"count": 1, "path": "/v1/refunds", "after_success": True},
    )
    async with desk.transactions.begin() as tx:
        await operations.order_refund(tx, row.payment_id, 2500, "ada", "goodwill", manual=False)
    await look_again(desk)
    await look_again(desk)
    assert len(desk.stripe.account.refunds) == 1
    assert (await desk.payment(row.payment_id)).status == "refunded"
    assert await desk.balance(row.payment_id) == 0


async def test_more_than_was_paid_cannot_be_ordered_back(desk: Desk) -> None:
    row = await desk.open()
    desk.stripe.account.pay(row.provider_reference)
    await look_again(desk)
    async with desk.transactions.begin() as tx:
        await operations.order_refund(tx, row.payment_id, 2000, "ada", "x", manual=False)
    for amount in (0, -5, 501):
        with pytest.raises(RefundNotPossible):
            async with desk.transactions.begin() as tx:
                await operations.order_refund(tx, row.payment_id, amount, "ada", "x", manual=False)


async def test_a_crypto_refund_paid_by_hand_takes_the_credits_when_it_is_recorded(desk: Desk) -> None:
    row = await desk.open("btcpay")
    desk.btcpay.settle(row.provider_reference)
    await look_again(desk)
    with pytest.raises(RefundNotPossible):
        async with desk.transactions.begin() as tx:
            await operations.order_refund(tx, row.payment_id, 2500, "ada", "x", manual=False)
    async with desk.transactions.begin() as tx:
        await operations.order_refund(tx, row.payment_id, 2500, "ada", "sent to bc1q...", manual=True)
    await look_again(desk)
    assert (await desk.payment(row.payment_id)).status == "refunded"
    assert await desk.balance(row.payment_id) == 0
