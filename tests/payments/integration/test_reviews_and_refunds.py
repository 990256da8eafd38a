"""What only a person can decide, and money that goes back."""

from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from contracts.billing import CreditsGranted
from payments import handlers, operations, repository
from payments.domain import Review
from payments.errors import RefundNotPossible, ReviewAlreadyResolved
from tests.billing.ledger_harness import received
from tests.payments.integration.conftest import Desk
from tests.support import eventually


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


async def refund_by_hand(desk: Desk, payment_id: UUID, cents: int) -> None:
    async with desk.transactions.begin() as tx:
        await operations.order_refund(tx, payment_id, cents, "ada", "sent back", manual=True)
    await hear_of(desk, await desk.payment(payment_id))


async def decide(desk: Desk, resolution: str) -> None:
    """The one review that is open."""
    (review,) = [review for review in await desk.reviews() if review.resolved_at is None]
    async with desk.transactions.begin() as tx:
        await operations.resolve_review(tx, review.review_id, resolution, "ada", "looked at it")


async def act(desk: Desk, row: Any, what: str) -> None:
    """Something happens to the invoice, and we hear of it."""
    await desk.http.post(f"{desk.url_of_btcpay}/admin/invoices/{row.provider_reference}/{what}")
    await hear_of(desk, row)


async def hear_of(desk: Desk, row: Any) -> None:
    """Look until nothing is due: a webhook that comes at the same moment may hold the payment."""
    async with desk.transactions.begin() as tx:
        await repository.hint_payments(tx.connection, [row.payment_id])

    async def looked() -> bool:
        await desk.pump()
        async with desk.transactions.begin() as tx:
            due = "SELECT count(*) FROM payments.payment_transactions WHERE next_look_at <= now()"
            return (await tx.connection.execute(sa.text(due))).scalar_one() == 0

    await eventually(looked)


@pytest.mark.parametrize(("what", "arrived"), [("partial", 1250), ("late", 2500)])
async def test_what_a_person_credited_and_then_sends_back_takes_the_credits_and_no_more_can_be_sent(
    desk: Desk, what: str, arrived: int
) -> None:
    row = await desk.open("btcpay")
    await act(desk, row, what)
    await decide(desk, "credited")
    with pytest.raises(RefundNotPossible):
        await refund_by_hand(desk, row.payment_id, arrived + 1)
    await refund_by_hand(desk, row.payment_id, arrived)
    found = await desk.payment(row.payment_id)
    assert (found.status, found.refunded_cents, await desk.balance(row.payment_id)) == ("refunded", arrived, 0)


async def test_a_surplus_that_is_sent_back_costs_no_credits(desk: Desk) -> None:
    row = await desk.open("btcpay")
    await act(desk, row, "over")
    await refund_by_hand(desk, row.payment_id, 1250)
    found = await desk.payment(row.payment_id)
    assert (found.status, found.refunded_cents, await desk.balance(row.payment_id)) == ("settled", 1250, 2750)


async def test_what_was_dismissed_and_then_arrives_in_full_is_put_before_a_person_again(desk: Desk) -> None:
    row = await desk.open("btcpay")
    await act(desk, row, "partial")
    await decide(desk, "dismissed")
    await act(desk, row, "partial")
    assert (await desk.payment(row.payment_id)).status == "failed"
    await act(desk, row, "settle")
    assert ((await desk.payment(row.payment_id)).status, await desk.balance(row.payment_id)) == ("review", 0)
    await decide(desk, "credited")
    await look_again(desk)
    assert ((await desk.payment(row.payment_id)).status, await desk.balance(row.payment_id)) == ("settled", 2750)


async def test_a_surplus_that_grows_after_it_was_decided_on_is_put_before_a_person_again(desk: Desk) -> None:
    row = await desk.open("btcpay")
    await act(desk, row, "over")
    await decide(desk, "dismissed")
    await act(desk, row, "over")
    assert [review.code for review in await desk.reviews() if review.resolved_at is None] == []
    desk.btcpay.paid[row.provider_reference] *= 2
    await hear_of(desk, row)
    assert [review.found for review in await desk.reviews() if review.resolved_at is None] == ["7500 cents usd"]


async def test_what_was_refunded_while_a_person_thought_about_it_is_not_credited(desk: Desk) -> None:
    row = await desk.open()
    desk.stripe.account.sessions[row.provider_reference]["amount_total"] = 2000
    intent = desk.stripe.account.pay(row.provider_reference)["payment_intent"]
    await look_again(desk)
    desk.stripe.account.refund(intent, None, None, {})
    await decide(desk, "credited")
    await hear_of(desk, row)
    assert ((await desk.payment(row.payment_id)).status, await desk.balance(row.payment_id)) == ("refunded", 0)


async def test_a_review_of_unposted_credits_closes_when_billing_has_them(desk: Desk) -> None:
    row = await desk.open()
    desk.stripe.account.pay(row.provider_reference)
    await look_again(desk)
    async with desk.transactions.begin() as tx:
        ordered = "UPDATE payments.credit_movements SET ordered_at = now() - interval '1 hour' RETURNING movement_id"
        movements = list((await tx.connection.execute(sa.text(ordered))).scalars())
    await desk.sweep()
    assert {review.code for review in await desk.reviews() if review.resolved_at is None} == {"unposted"}
    granted = [
        CreditsGranted(grant_id=one, user_id=row.user_id, amount_credits=1, payment_id=row.payment_id, lines=())
        for one in movements
    ]
    async with desk.transactions.begin() as tx:
        await handlers.mark_granted(tx, [received(message) for message in granted])
    assert [review.code for review in await desk.reviews() if review.resolved_at is None] == []


async def test_a_difference_that_healed_is_reported_when_it_comes_back(desk: Desk) -> None:
    row = await desk.open()
    async with desk.transactions.begin() as tx:
        await handlers.open_review(tx, row.payment_id, Review("difference", "a", "b"))
        await repository.resolve_reviews(tx.connection, row.payment_id, "difference", "reconciliation")
        await handlers.open_review(tx, row.payment_id, Review("difference", "a", "b"))
    assert [review.resolved_at for review in await desk.reviews()] == [None]


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
        ("finished", 0.01, "review"),
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
        json={"count": 1, "method": "POST", "path": "/v1/refunds", "after_success": True},
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
