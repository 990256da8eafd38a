"""The process is killed between a provider's answer and its recording; the next one does nothing a second time."""

import asyncio
import signal
from collections.abc import Callable

import pytest

from contracts.payments import Provider
from local_platform.payment_providers.webhooks import Misbehaviour
from payments.settings import Settings
from payments.tables import refunds
from service_runtime.settings import ServiceSettings
from tests.payments.harness import PaymentsHarness, harness_settings
from tests.support.service_processes import service_process
from tests.support.waiting import eventually

START_SECONDS = 30.0


@pytest.fixture
def settings(harness: PaymentsHarness, broker_settings: Callable[[str], ServiceSettings]) -> Settings:
    """The settings of a process beside the harness; the webhooks go to the harness."""
    broker = broker_settings("payments")
    return harness_settings(
        harness.database,
        harness.emulators,
        harness.url,
        nats_url=broker.nats_url,
        nats_password=broker.nats_password,
        poll_seconds=0.2,
        drain_seconds=5.0,
    )


async def killed_at(failpoint: str, settings: Settings) -> None:
    """Run a process until it is killed there."""
    async with service_process(settings, failpoint) as doomed:
        assert await asyncio.wait_for(doomed.wait(), START_SECONDS) == -signal.SIGKILL


async def until_outcome(harness: PaymentsHarness, settings: Settings, outcome: tuple[str, int]) -> None:
    """Run another process, for which the leases of the killed one are over, until the one payment has ended so."""

    async def reached() -> bool:
        (payment_id,) = await harness.payment_ids()
        return await harness.outcome(payment_id) == outcome

    await harness.make_all_due()
    async with service_process(settings):
        await eventually(reached, START_SECONDS, f"{outcome}")


@pytest.mark.parametrize("provider", ["stripe", "btcpay"])
async def test_a_kill_after_a_checkout_was_opened_leaves_one_checkout(
    harness: PaymentsHarness, settings: Settings, provider: Provider
) -> None:
    payment_id = await harness.create(provider)
    await killed_at("payments.after_open_checkout", settings)
    assert (await harness.payment(payment_id)).provider_reference is None
    await until_outcome(harness, settings, ("pending", 0))
    checkouts = {**harness.stripe.account.sessions, **harness.btcpay.invoices}
    assert set(checkouts) == {(await harness.payment(payment_id)).provider_reference}


async def test_a_kill_after_a_lookup_loses_no_credits_and_grants_them_once(
    harness: PaymentsHarness, settings: Settings
) -> None:
    opened = await harness.open()
    harness.stripe.sender.behave(Misbehaviour(drop=1))
    harness.stripe.account.pay(opened.reference)
    await harness.make_all_due()
    await killed_at("payments.after_look_up", settings)
    assert await harness.outcome(opened.payment_id) == ("pending", 0)
    await until_outcome(harness, settings, ("settled", 2750))
    assert len(await harness.billing_commands()) == 2


async def test_a_kill_after_a_refund_was_sent_leaves_one_refund(harness: PaymentsHarness, settings: Settings) -> None:
    opened = await harness.buy()
    refund_id = await harness.request_refund(opened.payment_id, 1000)
    await killed_at("payments.after_refund", settings)
    await until_outcome(harness, settings, ("partially_refunded", 1650))
    assert len(harness.stripe.account.refunds) == await harness.count(refunds) == 1
    assert (await harness.refund(refund_id)).provider_reference in harness.stripe.account.refunds
