"""What only a person can decide, and money that goes back."""

import pytest

from contracts.billing import CreditsGranted
from messaging.leases import LEASE
from payments.domain.payment_state import Resolution, Review
from payments.domain.snapshots import Snapshot
from payments.errors import RefundNotPossible, ReviewAlreadyResolved
from payments.handlers.credits import mark_granted
from payments.handlers.polls import record_snapshot
from payments.handlers.reviews import open_review
from payments.repository import payments
from payments.repository.reviews import heal_reviews
from tests.payments.harness import OpenPayment, PaymentsHarness, received


@pytest.mark.parametrize(("act", "code"), [("partial", "underpaid"), ("late", "late")])
@pytest.mark.parametrize(
    ("resolution", "status", "balance"), [("credited", "settled", 2750), ("dismissed", "failed", 0)]
)
async def test_coins_that_do_not_match_wait_for_a_decision_and_follow_it(
    harness: PaymentsHarness, act: str, code: str, resolution: Resolution, status: str, balance: int
) -> None:
    opened = await harness.open("btcpay")
    await harness.act_at_btcpay(opened, act)
    await harness.poll_all()
    assert (await harness.payment(opened.payment_id)).status == "review"
    assert await harness.balance(opened.payment_id) == 0
    (review,) = await harness.reviews()
    assert (review.code, review.expected) == (code, "2500 cents usd")
    await harness.resolve(review.review_id, resolution)
    await harness.poll_all()
    assert (await harness.payment(opened.payment_id)).status == status
    assert await harness.balance(opened.payment_id) == balance
    with pytest.raises(ReviewAlreadyResolved):
        await harness.resolve(review.review_id, "credited", actor="eve")


async def refund_by_hand(harness: PaymentsHarness, opened: OpenPayment, cents: int) -> None:
    await harness.request_refund(opened.payment_id, cents, manual=True)
    await harness.hint(opened)


async def decide(harness: PaymentsHarness, resolution: Resolution) -> None:
    """The one review that is open."""
    (review,) = await harness.open_reviews()
    await harness.resolve(review.review_id, resolution)


async def act(harness: PaymentsHarness, opened: OpenPayment, what: str) -> None:
    """Something happens to the invoice, and its payment is polled."""
    await harness.act_at_btcpay(opened, what)
    await harness.hint(opened)


@pytest.mark.parametrize(("what", "arrived"), [("partial", 1250), ("late", 2500)])
async def test_money_sent_back_after_a_person_credited_it_takes_the_credits_once(
    harness: PaymentsHarness, what: str, arrived: int
) -> None:
    opened = await harness.open("btcpay")
    await act(harness, opened, what)
    await decide(harness, "credited")
    with pytest.raises(RefundNotPossible):
        await refund_by_hand(harness, opened, arrived + 1)
    await refund_by_hand(harness, opened, arrived)
    found = await harness.payment(opened.payment_id)
    assert (found.status, found.refunded_cents, await harness.balance(opened.payment_id)) == ("refunded", arrived, 0)


async def test_a_surplus_that_is_sent_back_costs_no_credits(harness: PaymentsHarness) -> None:
    opened = await harness.open("btcpay")
    await act(harness, opened, "over")
    await refund_by_hand(harness, opened, 1250)
    found = await harness.payment(opened.payment_id)
    assert (found.status, found.refunded_cents, await harness.balance(opened.payment_id)) == ("settled", 1250, 2750)


async def test_dismissed_money_that_arrives_in_full_is_reviewed_again(
    harness: PaymentsHarness,
) -> None:
    opened = await harness.open("btcpay")
    await act(harness, opened, "partial")
    await decide(harness, "dismissed")
    await act(harness, opened, "partial")
    assert (await harness.payment(opened.payment_id)).status == "failed"
    await act(harness, opened, "settle")
    assert await harness.outcome(opened.payment_id) == (
        "review",
        0,
    )
    await decide(harness, "credited")
    await harness.poll_all()
    assert await harness.outcome(opened.payment_id) == (
        "settled",
        2750,
    )


async def test_a_surplus_that_grows_after_its_decision_is_reviewed_again(
    harness: PaymentsHarness,
) -> None:
    opened = await harness.open("btcpay")
    await act(harness, opened, "over")
    await decide(harness, "dismissed")
    await act(harness, opened, "over")
    assert await harness.open_review_codes() == []
    harness.btcpay.paid[opened.reference] *= 2
    await harness.hint(opened)
    assert [review.found for review in await harness.reviews() if review.resolved_at is None] == ["7500 cents usd"]


async def test_what_was_refunded_while_a_person_thought_about_it_is_not_credited(harness: PaymentsHarness) -> None:
    opened = await harness.open()
    harness.stripe.account.sessions[opened.reference]["amount_total"] = 2000
    intent = harness.stripe.account.pay(opened.reference)["payment_intent"]
    await harness.poll_all()
    harness.stripe.account.refund(intent, None, None, {})
    await decide(harness, "credited")
    await harness.hint(opened)
    assert await harness.outcome(opened.payment_id) == (
        "refunded",
        0,
    )


async def overdue_grants(harness: PaymentsHarness) -> list[CreditsGranted]:
    """What billing owes a payment that was bought an hour ago, and that a person knows of."""
    granted = await harness.unconfirmed_grants()
    await harness.run_sweeps()
    assert await harness.open_review_codes() == ["unposted", "unposted"]
    return granted


async def test_a_review_of_unposted_credits_closes_when_billing_has_them(harness: PaymentsHarness) -> None:
    granted = await overdue_grants(harness)
    for left, message in ((["unposted"], granted[0]), ([], granted[1])):
        async with harness.transactions.begin() as tx:
            await mark_granted(tx, [received(message)])
        assert await harness.open_review_codes() == left


async def test_two_confirmations_at_once_close_both_reviews_of_a_payment(harness: PaymentsHarness) -> None:
    granted = await overdue_grants(harness)
    async with harness.transactions.begin() as one, harness.transactions.begin() as other:
        await mark_granted(one, [received(granted[0])])
        await mark_granted(other, [received(granted[1])])
    assert await harness.open_review_codes() == []


async def test_a_difference_that_healed_is_reported_when_it_comes_back(harness: PaymentsHarness) -> None:
    opened = await harness.open()
    async with harness.transactions.begin() as tx:
        await open_review(tx, opened.payment_id, Review("difference", "a", "b"))
        await heal_reviews(tx.connection, opened.payment_id, ["difference"])
        await open_review(tx, opened.payment_id, Review("difference", "a", "b"))
    assert [review.resolved_at for review in await harness.reviews()] == [None]


async def test_too_many_coins_grant_the_pack_and_report_the_surplus(harness: PaymentsHarness) -> None:
    opened = await harness.open("btcpay")
    await harness.act_at_btcpay(opened, "over")
    await harness.poll_all()
    assert (await harness.payment(opened.payment_id)).status == "settled"
    assert await harness.balance(opened.payment_id) == 2750
    (review,) = await harness.reviews()
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
    harness: PaymentsHarness, status: str, share: float, expected: str
) -> None:
    opened = await harness.open("nowpayments")
    harness.nowpayments.pay(opened.reference, status, share)
    await harness.poll_all()
    assert (await harness.payment(opened.payment_id)).status == expected


async def test_a_refund_ordered_by_us_goes_out_once_and_takes_its_credits(harness: PaymentsHarness) -> None:
    opened = await harness.buy()
    await harness.request_refund(opened.payment_id, 1000)
    await harness.poll_all()
    await harness.poll_all()
    assert (await harness.payment(opened.payment_id)).status == "partially_refunded"
    assert await harness.balance(opened.payment_id) == 1650
    assert len(harness.stripe.account.refunds) == 1


async def test_a_refund_whose_answer_was_lost_is_not_made_twice(harness: PaymentsHarness) -> None:
    opened = await harness.buy()
    await harness.http.post(
        f"{harness.stripe.account.public_url}/admin/failures",
        json={"count": 1, "method": "POST", "path": "/v1/refunds", "after_success": True},
    )
    await harness.request_refund(opened.payment_id, 2500)
    await harness.poll_all()
    await harness.poll_all()
    assert len(harness.stripe.account.refunds) == 1
    assert (await harness.payment(opened.payment_id)).status == "refunded"
    assert await harness.balance(opened.payment_id) == 0


async def test_more_than_was_paid_cannot_be_ordered_back(harness: PaymentsHarness) -> None:
    opened = await harness.buy()
    await harness.request_refund(opened.payment_id, 2000)
    for amount in (0, -5, 501):
        with pytest.raises(RefundNotPossible):
            await harness.request_refund(opened.payment_id, amount)


async def test_a_crypto_refund_paid_by_hand_takes_the_credits_when_it_is_recorded(harness: PaymentsHarness) -> None:
    opened = await harness.buy("btcpay")
    with pytest.raises(RefundNotPossible):
        await harness.request_refund(opened.payment_id, 2500)
    await harness.request_refund(opened.payment_id, 2500, manual=True)
    await harness.poll_all()
    assert (await harness.payment(opened.payment_id)).status == "refunded"
    assert await harness.balance(opened.payment_id) == 0


async def test_money_that_is_on_its_way_has_not_arrived(harness: PaymentsHarness) -> None:
    """It is estimated a little higher than what arrives: a refund of all that arrived takes all credits."""
    opened = await harness.open("btcpay")
    await harness.make_all_due()
    async with harness.transactions.begin() as tx:
        (claimed,) = await payments.claim_due(tx.connection, "btcpay", 1, LEASE)
        processing = Snapshot(opened.reference, "processing", paid_cents=2503, currency="usd")
        await record_snapshot(tx, claimed, processing)
    assert (await harness.payment(opened.payment_id)).paid_cents == 0
    harness.emulators.running["btcpay"].pay_in_full(opened.reference)
    await harness.hint(opened)
    assert (await harness.payment(opened.payment_id)).paid_cents == 2500
    await harness.request_refund(opened.payment_id, 2500, manual=True)
    await harness.hint(opened)
    assert await harness.outcome(opened.payment_id) == ("refunded", 0)
