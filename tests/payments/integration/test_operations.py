"""What an operator may do by hand, and what is refused with the reason."""

import argparse
from uuid import UUID

import pytest

from messaging.ids import new_id
from payments import commands
from payments.errors import RefundNotPossible, ResolutionNotPossible, ReviewAlreadyResolved
from payments.tables import refunds
from tests.payments.harness import PaymentsHarness


async def test_a_refund_made_in_stripes_dashboard_cannot_be_recorded_by_hand_as_well(harness: PaymentsHarness) -> None:
    opened = await harness.buy()
    harness.stripe.account.refund(await harness.charge_of(opened), 1000, None, {})
    await harness.poll_all()
    with pytest.raises(RefundNotPossible):
        await harness.request_refund(opened.payment_id, 1000, manual=True)
    await harness.poll_all()
    assert await harness.balance(opened.payment_id) == 1650


async def test_a_refund_requested_twice_under_one_id_is_made_once(harness: PaymentsHarness) -> None:
    opened = await harness.buy()
    refund_id = new_id()
    for _ in range(2):
        await harness.request_refund(opened.payment_id, 1000, refund_id=refund_id)
        await harness.poll_all()
    assert await harness.count(refunds) == len(harness.stripe.account.refunds) == 1
    with pytest.raises(RefundNotPossible):
        await harness.request_refund(opened.payment_id, 999, refund_id=refund_id)


async def test_a_review_of_money_that_came_in_full_can_be_decided_no_more(harness: PaymentsHarness) -> None:
    opened = await harness.open("btcpay")
    await harness.act_at_btcpay(opened, "partial")
    await harness.poll_all()
    (review,) = await harness.reviews()
    harness.btcpay.pay_in_full(opened.reference)
    await harness.poll_all()
    with pytest.raises(ReviewAlreadyResolved):
        await harness.resolve(review.review_id, "credited")
    assert await harness.outcome(opened.payment_id) == ("settled", 2750)


async def test_a_review_with_nothing_to_credit_can_only_be_dismissed(harness: PaymentsHarness) -> None:
    opened = await harness.open("btcpay")
    await harness.act_at_btcpay(opened, "over")
    await harness.poll_all()
    (review,) = await harness.reviews()
    with pytest.raises(ResolutionNotPossible, match=r"settled can only be dismissed"):
        await harness.resolve(review.review_id, "credited")
    await harness.resolve(review.review_id, "dismissed")
    await harness.poll_all()
    assert await harness.open_review_codes() == []
    assert await harness.balance(opened.payment_id) == 2750


async def test_the_refund_command_says_its_id_first_and_can_be_repeated_with_it(
    harness: PaymentsHarness, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = await harness.buy()
    command = f"refund --payment {opened.payment_id} --amount-cents 1000 --actor ada --note goodwill"

    async def run(arguments: str) -> list[str]:
        parser = argparse.ArgumentParser()
        commands.add_parsers(parser.add_subparsers(dest="command"))
        await commands.run(harness.settings, parser.parse_args(arguments.split()))
        return capsys.readouterr().out.splitlines()

    announced, done = await run(command)
    refund_id = announced.split()[1].rstrip(":")
    assert "--refund-id" in announced
    assert done == f"refund {refund_id} is written down"
    assert await run(f"{command} --refund-id {refund_id}") == [announced, done]
    assert await harness.count(refunds) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (f"refund --payment {UUID(int=1)} --amount-cents 100", "unknown_payment"),
        ("refund --payment PENDING --amount-cents 100", "refund_not_possible"),
        (f"resolve --review {UUID(int=1)} --resolution credited", "review_already_resolved"),
    ],
)
async def test_a_command_that_is_refused_says_why_in_a_line(
    arguments: str, code: str, harness: PaymentsHarness, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = await harness.open()
    parser = argparse.ArgumentParser()
    commands.add_parsers(parser.add_subparsers(dest="command"))
    words = f"{arguments} --actor ada --note why".replace("PENDING", str(opened.payment_id)).split()
    assert await commands.run(harness.settings, parser.parse_args(words)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"refused ({code}): ")
    assert await harness.count(refunds) == 0
