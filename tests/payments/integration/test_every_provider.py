"""What every payment provider must do for us, against its emulator. A new provider needs no line here."""

import pytest

from contracts.payments import PROVIDERS, Provider
from local_platform.payment_providers.webhooks import Misbehaviour
from payments.errors import RefundNotPossible
from payments.providers.registry import ADAPTERS
from payments.tables import payment_transactions, provider_events
from tests.payments.harness import PaymentsHarness
from tests.support.waiting import eventually

pytestmark = pytest.mark.parametrize("provider", PROVIDERS)


async def test_a_purchase_is_credited_once_however_often_webhooks_come(
    harness: PaymentsHarness, provider: Provider
) -> None:
    opened = await harness.open(provider)
    emulator = harness.emulators.running[provider]
    emulator.sender.behave(Misbehaviour(copies=3))
    emulator.pay_in_full(opened.reference)
    await eventually(lambda: emulator.sender.tries >= 3 and emulator.sender.idle, 30, "the webhooks' delivery")
    await harness.run_loops()
    assert await harness.outcome(opened.payment_id) == ("settled", 2750)
    await harness.poll_all()
    assert await harness.outcome(opened.payment_id) == ("settled", 2750)
    assert len(await harness.billing_commands()) == 2


async def test_a_webhook_without_a_proof_is_refused_and_leaves_no_row(
    harness: PaymentsHarness, provider: Provider
) -> None:
    for body in (b"{}", b"not json", b'{"id": "evt_1"}'):
        answer = await harness.deliver(body, {}, provider)
        assert answer.status_code == 400
    assert await harness.count(provider_events) == 0


async def test_a_payment_whose_webhooks_are_lost_is_found_by_the_sweeps(
    harness: PaymentsHarness, provider: Provider
) -> None:
    opened = await harness.open(provider)
    emulator = harness.emulators.running[provider]
    emulator.sender.behave(Misbehaviour(drop=1))
    emulator.pay_in_full(opened.reference)
    await harness.run_loops()
    assert await harness.outcome(opened.payment_id) == ("pending", 0)
    await harness.run_sweeps()
    await harness.run_loops()
    assert await harness.outcome(opened.payment_id) == ("settled", 2750)


async def test_a_provider_that_is_down_costs_time_and_no_second_payment(
    harness: PaymentsHarness, provider: Provider
) -> None:
    url = harness.emulators.accounts[provider].url
    await harness.http.post(f"{url}/admin/failures", json={"count": 2})
    payment_id = await harness.create(provider)

    async def is_open() -> bool:
        await harness.poll_all()
        return (await harness.payment(payment_id)).status == "pending"

    await eventually(is_open, 30, "the checkout after the outage")
    assert await harness.count(payment_transactions) == 1


async def test_money_sent_back_takes_the_credits_back(harness: PaymentsHarness, provider: Provider) -> None:
    opened = await harness.buy(provider)
    by_hand = not ADAPTERS[provider].refunds_by_api
    with pytest.raises(RefundNotPossible):
        await harness.request_refund(opened.payment_id, 2500, manual=not by_hand)
    await harness.request_refund(opened.payment_id, 2500, manual=by_hand)
    await harness.poll_all()
    await harness.poll_all()
    assert await harness.outcome(opened.payment_id) == ("refunded", 0)


async def test_the_daily_comparison_finds_no_difference_where_none_is(
    harness: PaymentsHarness, provider: Provider
) -> None:
    await harness.buy(provider)
    await harness.run_sweeps()
    assert await harness.reviews() == []
