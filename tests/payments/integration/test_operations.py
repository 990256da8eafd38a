"""What an operator may do by hand, and what is refused with the reason."""

import sys

import pytest
import sqlalchemy as sa

from messaging.ids import new_id
from payments import main, operations
from payments.errors import RefundNotPossible, ResolutionNotPossible
from payments.settings import Settings
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


async def test_the_refund_command_says_its_id_first_and_can_be_repeated_with_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = await paid(desk)
    settings = Settings(
        database_url=desk.database.dsn("payments"),  # type: ignore[arg-type]
        nats_url="nats://nowhere",
        nats_user="payments",
        nats_password="unused",  # type: ignore[arg-type]
        ops_port=0,
        http_port=0,
        public_base_url=desk.url,
        checkout_success_url="http://front/thanks",
        checkout_cancel_url="http://front/credits",
    )
    command = f"refund --payment {row.payment_id} --amount-cents 1000 --actor ada --note goodwill"

    async def run(arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["payments", *arguments.split()])
        await main.operate(settings, main._arguments())
        return capsys.readouterr().out.splitlines()

    announced, done = await run(command)
    refund_id = announced.split()[1].rstrip(":")
    assert "--refund-id" in announced
    assert done == f"refund {refund_id} is written down"
    assert await run(f"{command} --refund-id {refund_id}") == [announced, done]
    assert await desk.count(refunds) == 1
