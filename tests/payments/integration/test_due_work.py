"""One question finds everything that is due at the providers, and wakes the workers that it is for and no others."""

from collections.abc import Awaitable, Callable

import pytest
import sqlalchemy as sa

from payments.domain.snapshots import ProviderEvent
from payments.loops.due_work import DueWork
from payments.repository.provider_events import add_event
from payments.tables import payment_transactions, refunds
from tests.payments.harness import PaymentsHarness

Woken = set[tuple[str, str]]


async def nothing(harness: PaymentsHarness) -> None:
    await harness.open()


async def payment(harness: PaymentsHarness) -> None:
    await harness.create("btcpay")


async def payments_of_two_providers(harness: PaymentsHarness) -> None:
    await harness.create("stripe")
    await harness.create("nowpayments")


async def payment_under_way(harness: PaymentsHarness) -> None:
    of_it = payment_transactions.c.payment_id == await harness.create()
    await harness.change(of_it, leased_until=sa.func.now() + sa.text("interval '1 minute'"))


async def payment_whose_worker_died(harness: PaymentsHarness) -> None:
    of_it = payment_transactions.c.payment_id == await harness.create()
    await harness.change(of_it, leased_until=sa.func.now() - sa.text("interval '1 second'"))


async def refund(harness: PaymentsHarness) -> None:
    await harness.request_refund((await harness.buy()).payment_id, 100)


async def refund_that_was_refused(harness: PaymentsHarness) -> None:
    await refund(harness)
    async with harness.transactions.begin() as tx:
        await tx.connection.execute(sa.update(refunds).values(state="failed"))


async def event(harness: PaymentsHarness) -> None:
    unmatched = ProviderEvent("evt_1", "refund.created", None, "pi_unknown", b"{}")
    async with harness.transactions.begin() as tx:
        await add_event(tx.connection, "stripe", unmatched, "webhook", None)


DUE: dict[str, tuple[Callable[[PaymentsHarness], Awaitable[None]], Woken]] = {
    "nothing": (nothing, set()),
    "a payment": (payment, {("polls", "btcpay")}),
    "payments of two providers": (payments_of_two_providers, {("polls", "stripe"), ("polls", "nowpayments")}),
    "a payment under way": (payment_under_way, set()),
    "a payment whose worker died": (payment_whose_worker_died, {("polls", "stripe")}),
    "a refund, which is a hint as well": (refund, {("refunds", "stripe"), ("polls", "stripe")}),
    "a refund that was refused": (refund_that_was_refused, {("polls", "stripe")}),
    "an event without a payment": (event, {("events", "stripe")}),
}


@pytest.mark.parametrize("due", DUE)
async def test_the_workers_that_have_something_to_do_are_woken(harness: PaymentsHarness, due: str) -> None:
    prepare, expected = DUE[due]
    await prepare(harness)
    wake_ups = harness.wake_ups
    events = {
        (kind, provider): event
        for kind, by_provider in (("polls", wake_ups.polls), ("refunds", wake_ups.refunds), ("events", wake_ups.events))
        for provider, event in by_provider.items()
    }
    for event in events.values():
        event.clear()
    await DueWork(harness.transactions, tuple(harness.providers), wake_ups).wake_workers()
    assert {woken for woken, event in events.items() if event.is_set()} == expected
