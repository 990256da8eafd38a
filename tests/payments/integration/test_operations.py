"""What an operator may do by hand, and what is refused with the reason."""

import pytest
import sqlalchemy as sa

from messaging.ids import new_id
from payments import operations
from payments.errors import RefundNotPossible, ResolutionNotPossible
from payments.tables import refunds
from tests.payments.integration.conftest import Desk


async def paid(desk: Desk) -> sa.Row[object]:
    row = await desk.open()
    desk.stripe.account.pay(row.provider_reference)
    await desk.look_again()
    return await desk.payment(row.payment_id)


async def test_a_refund_made_in_stripes_dashboard_cannot_be_recorded_by_hand_as_well(desk: Desk) -> None:
    row = await paid(desk)
    desk.stripe.account.refund(row.charge_reference, 1000, None, {})
    await desk.look_again()
    with pytest.raises(RefundNotPossible):
        async with desk.transactions.begin() as tx:
            await operations.order_refund(tx, row.payment_id, 1000, "ada", "in the dashboard", manual=True)
    await desk.look_again()
    assert await desk.balance(row.payment_id) == 1650


async def test_a_refund_ordered_twice_under_one_id_is_made_once(desk: Desk) -> None:
    row = await paid(desk)
    refund_id = new_id()
    for _ in range(2):
        async with desk.transactions.begin() as tx:
            await operations.order_refund(tx, row.payment_id, 1000, "ada", "goodwill", False, refund_id)
        await desk.look_again()
    assert await desk.count(refunds) == len(desk.stripe.account.refunds) == 1
    with pytest.raises(RefundNotPossible):
        async with desk.transactions.begin() as tx:
            await operations.order_refund(tx, row.payment_id, 999, "ada", "goodwill", False, refund_id)


@pytest.mark.parametrize("act", ["over", "partial"])
async def test_a_review_with_nothing_to_credit_can_only_be_dismissed(desk: Desk, act: str) -> None:
    row = await desk.open("btcpay")
    await desk.http.post(f"{desk.url_of_btcpay}/admin/invoices/{row.provider_reference}/{act}")
    await desk.look_again()
    (review,) = await desk.reviews()
    if act == "partial":
        # The rest came, and the payment settled without anybody's decision.
        desk.btcpay.settle(row.provider_reference)
        await desk.look_again()
    with pytest.raises(ResolutionNotPossible, match=r"settled can only be dismissed"):
        async with desk.transactions.begin() as tx:
            await operations.resolve_review(tx, review.review_id, "credited", "ada", "why not")
    async with desk.transactions.begin() as tx:
        await operations.resolve_review(tx, review.review_id, "dismissed", "ada", "nothing to do")
    await desk.look_again()
    assert await desk.open_reviews() == []
    assert await desk.balance(row.payment_id) == 2750
