"""Work that meets at one payment waits in one order, and never for each other."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from contracts.payments import CreatePayment
from messaging.ids import new_id
from payments.domain.payment_state import Review
from payments.domain.snapshots import ProviderRefund
from payments.handlers.credits import mark_granted
from payments.handlers.purchases import create_payment
from payments.handlers.refunds import record_refund
from payments.handlers.reviews import open_review
from payments.loops.unposted import report_unposted
from payments.repository import payments, refunds
from payments.tables import payment_transactions
from payments.tables import refunds as refunds_table
from tests.payments.harness import PaymentsHarness, received
from tests.support.waiting import eventually


async def waiting_for_a_lock(harness: PaymentsHarness, count: int) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def waits() -> bool:
        async with harness.transactions.begin() as tx:
            return int((await tx.connection.execute(sa.text(waiting))).scalar_one()) == count

    await eventually(waits, what=f"{count} waiting for a lock")


async def started(harness: PaymentsHarness, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """The work as a task, once it waits for a lock."""
    task = asyncio.create_task(work)
    await waiting_for_a_lock(harness, 1)
    return task


async def test_a_review_is_decided_while_its_payment_is_being_polled(harness: PaymentsHarness) -> None:
    opened = await harness.open("btcpay")
    await harness.act_at_btcpay(opened, "partial")
    await harness.poll_all()
    (review,) = await harness.reviews()

    async def decide() -> None:
        await harness.resolve(review.review_id, "credited")

    async with harness.transactions.begin() as tx:
        await payments.lock_payment(tx.connection, opened.payment_id)
        deciding = await started(harness, decide())
        await open_review(tx, opened.payment_id, Review("underpaid", "2500 cents usd", "1250 cents usd"))
    await deciding
    assert (await harness.payment(opened.payment_id)).status == "settled"


async def test_a_refund_is_confirmed_while_its_payment_is_being_polled(harness: PaymentsHarness) -> None:
    opened = await harness.buy()
    refund_id = await harness.request_refund(opened.payment_id, 1000)
    async with harness.transactions.begin() as tx:
        (claimed,) = await refunds.claim_refunds(tx.connection, "stripe", 1, timedelta(minutes=1))

    async def confirm() -> None:
        async with harness.transactions.begin() as tx:
            await record_refund(tx, claimed, "re_1")

    async with harness.transactions.begin() as tx:
        await payments.lock_payment(tx.connection, opened.payment_id)
        confirming = await started(harness, confirm())
        seen = ProviderRefund("re_1", 1000, "usd", "succeeded", refund_id)
        await refunds.put_refunds(tx.connection, opened.payment_id, "stripe", [seen])
    await confirming
    assert await harness.count(refunds_table) == 1
    found = await harness.refund(refund_id)
    assert (found.provider_reference, found.state) == ("re_1", "succeeded")


async def test_two_batches_with_the_same_users_in_another_order_both_pass(harness: PaymentsHarness) -> None:
    first, second = sorted((uuid4(), uuid4()))

    async def buy(*users: Any) -> None:
        commands = [
            CreatePayment(
                payment_id=new_id(), user_id=user, provider="stripe", pack_id="creator", requested_at=datetime.now(UTC)
            )
            for user in users
        ]
        async with harness.transactions.begin() as tx:
            await create_payment(harness.policy, harness.wake_ups)(tx, [received(command) for command in commands])

    async with harness.transactions.begin() as tx:
        await payments.lock_payers(tx.connection, [first])
        one = await started(harness, buy(first, second))
        other = asyncio.create_task(buy(second, first))
        await waiting_for_a_lock(harness, 2)
    await asyncio.gather(one, other)
    assert await harness.count(payment_transactions) == 4


async def test_credits_that_are_confirmed_while_they_are_reported_leave_no_review(harness: PaymentsHarness) -> None:
    granted = await harness.unconfirmed_grants()
    async with harness.transactions.begin() as tx:
        await mark_granted(tx, [received(message) for message in granted])
        reporting = await started(harness, report_unposted(harness.transactions))
    await reporting
    assert await harness.reviews() == []
