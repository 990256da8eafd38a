"""Work that meets at one payment waits in one order, and never for each other."""

import asyncio
from collections.abc import Coroutine
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from contracts.payments import CreatePayment
from messaging.ids import new_id
from payments import handlers, operations, repository
from payments.domain import ProviderRefund, Review
from payments.tables import payment_transactions, refunds
from tests.payments.integration.conftest import Desk, json_now, received
from tests.support.waiting import eventually


async def waiting_for_a_lock(desk: Desk, count: int) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def waits() -> bool:
        async with desk.transactions.begin() as tx:
            return int((await tx.connection.execute(sa.text(waiting))).scalar_one()) == count

    await eventually(waits, what=f"{count} waiting for a lock")


async def started(desk: Desk, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """The work as a task, once it waits for a lock."""
    task = asyncio.create_task(work)
    await waiting_for_a_lock(desk, 1)
    return task


async def test_a_review_is_decided_while_its_payment_is_being_looked_at(desk: Desk) -> None:
    row = await desk.open("btcpay")
    await desk.http.post(f"{desk.url_of_btcpay}/admin/invoices/{row.provider_reference}/partial")
    await desk.look_again()
    (review,) = await desk.reviews()

    async def decide() -> None:
        async with desk.transactions.begin() as tx:
            await operations.resolve_review(tx, review.review_id, "credited", "ada", "close enough")

    async with desk.transactions.begin() as tx:
        await repository.lock_payment(tx.connection, row.payment_id)
        deciding = await started(desk, decide())
        await handlers.open_review(tx, row.payment_id, Review("underpaid", "2500 cents usd", "1250 cents usd"))
    await deciding
    assert (await desk.payment(row.payment_id)).status == "settled"


async def test_a_refund_is_confirmed_while_its_payment_is_being_looked_at(desk: Desk) -> None:
    row = await desk.open()
    desk.stripe.account.pay(row.provider_reference)
    await desk.look_again()
    async with desk.transactions.begin() as tx:
        refund_id = await operations.order_refund(tx, row.payment_id, 1000, "ada", "goodwill", manual=False)
        (ordered,) = await tx.connection.execute(sa.select(refunds))

    async def confirm() -> None:
        async with desk.transactions.begin() as tx:
            await handlers.record_refund(tx, ordered, "re_1")

    async with desk.transactions.begin() as tx:
        await repository.lock_payment(tx.connection, row.payment_id)
        confirming = await started(desk, confirm())
        seen = ProviderRefund("re_1", 1000, "succeeded", refund_id)
        await repository.put_refunds(tx.connection, row.payment_id, "stripe", [seen])
    await confirming
    async with desk.transactions.begin() as tx:
        (found,) = await tx.connection.execute(sa.select(refunds))
    assert (found.refund_id, found.provider_reference, found.state) == (refund_id, "re_1", "succeeded")


async def test_two_batches_with_the_same_users_in_another_order_both_pass(desk: Desk) -> None:
    first, second = sorted((uuid4(), uuid4()))

    async def buy(*users: Any) -> None:
        commands = [
            CreatePayment(
                payment_id=new_id(), user_id=user, provider="stripe", pack_id="creator", requested_at=json_now()
            )
            for user in users
        ]
        async with desk.transactions.begin() as tx:
            await handlers.create_payment(desk.policy, lambda: None)(tx, [received(command) for command in commands])

    async with desk.transactions.begin() as tx:
        await repository.lock_payers(tx.connection, [first])
        one = await started(desk, buy(first, second))
        other = asyncio.create_task(buy(second, first))
        await waiting_for_a_lock(desk, 2)
    await asyncio.gather(one, other)
    assert await desk.count(payment_transactions) == 4
