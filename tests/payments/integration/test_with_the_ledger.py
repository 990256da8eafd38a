"""Payments and billing together, over the real broker: what was paid is in the ledger, once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from billing.consumers import SUBSCRIPTIONS as BILLING
from catalogue.credit_packs import load_credit_packs
from contracts.payments import CreatePayment
from local_platform.payment_providers.stripe_emulator import StripeEmulator
from messaging.ids import new_id
from messaging.runtime import Messaging
from payments import handlers
from payments.consumers import subscriptions
from payments.driver import Driver
from payments.handlers import Policy
from payments.http import build_app
from payments.providers.stripe_checkout import StripeCheckout
from service_runtime.loops import every
from tests.payments.integration.conftest import SECRET, json_now, received
from tests.support.databases import Database
from tests.support.serving import listening_socket, serving
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(120)


class Shop:
    """A running pair of services, and the Stripe that one of them talks to."""

    def __init__(self, database: Database, payments: Messaging, policy: Policy, stripe: StripeEmulator) -> None:
        self.stripe = stripe
        self.due = asyncio.Event()
        self._engine = database.superuser_engine()
        self._payments = payments
        self._policy = policy

    async def buy(self, user_id: UUID) -> UUID:
        payment_id = new_id()
        command = CreatePayment(
            payment_id=payment_id, user_id=user_id, provider="stripe", pack_id="creator", requested_at=json_now()
        )
        async with self._payments.transactions.begin() as tx:
            await handlers.create_payment(self._policy, self.due.set)(tx, [received(command)])
        row = await eventually(lambda: self.one("payments.payment_transactions", payment_id, "pending"), 30)
        self.stripe.account.pay(row.provider_reference)
        return payment_id

    async def one(self, table: str, payment_id: UUID, status: str) -> Any:
        rows = await self.rows(f"SELECT * FROM {table} WHERE payment_id = :id AND status = :status", payment_id, status)
        return rows[0] if rows else None

    async def rows(self, statement: str, payment_id: UUID, status: str = "") -> list[Any]:
        async with self._engine.connect() as connection:
            values = {"id": payment_id, "status": status}
            return list(await connection.execute(sa.text(statement), values))


@pytest.fixture
async def shop(
    make_database: Callable[..., Awaitable[Database]], broker_settings: Callable[[str], Any]
) -> AsyncIterator[Shop]:
    database = await make_database("payments", "billing")
    listener, url = listening_socket()
    stripe_listener, stripe_url = listening_socket()
    stripe = StripeEmulator("rk_test", stripe_url)
    stripe.account.add_endpoint(f"{url}/webhooks/stripe", ["*"], SECRET)
    provider = StripeCheckout("rk_test", (SECRET,), "http://front/ok", "http://front/no", stripe_url, 5.0)
    packs = {pack.id: pack for pack in load_credit_packs()}
    policy = Policy(packs, frozenset({"stripe"}), max_open_payments=5, lifetime=timedelta(hours=1))
    due = asyncio.Event()
    payments = Messaging(
        service="payments",
        engine=database.engine("payments"),
        settings=broker_settings("payments"),
        subscriptions=subscriptions(policy, due.set),
    )
    billing = Messaging(
        service="billing",
        engine=database.engine("billing"),
        settings=broker_settings("billing"),
        subscriptions=BILLING,
    )
    driver = Driver(payments.transactions, provider)
    shop = Shop(database, payments, policy, stripe)
    shop.due = due
    app = build_app(payments.transactions, {"stripe": provider}, due.set)
    components = [*payments.components(), *billing.components(), every("driver", 1.0, driver.drive, wake=due)]
    async with serving(stripe.app(), stripe_listener), serving(app, listener):
        tasks = [asyncio.create_task(component.run()) for component in components]
        yield shop
        pending = set(tasks)
        while pending:
            # Python 3.11's wait_for, inside the broker's client, can swallow one cancellation.
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.5)
        await provider.close()


BALANCE = """
    SELECT available_credits, receivable_credits FROM billing.users
    WHERE user_id = (SELECT user_id FROM payments.payment_transactions WHERE payment_id = :id)
"""


async def test_a_bought_pack_arrives_in_the_ledger_and_a_dispute_takes_it_back(shop: Shop) -> None:
    user_id = uuid4()
    payment_id = await shop.buy(user_id)

    async def credited(expected: int) -> bool:
        rows = await shop.rows(BALANCE, payment_id)
        return bool(rows) and rows[0].available_credits == expected

    await eventually(lambda: credited(2750), 30, "the credits")
    unposted = "SELECT 1 FROM payments.credit_movements WHERE payment_id = :id AND posted_at IS NULL"

    async def posted() -> bool:
        return not await shop.rows(unposted, payment_id)

    await eventually(posted, 30, "billing's confirmation")
    row = await shop.one("payments.payment_transactions", payment_id, "settled")
    dispute = shop.stripe.account.dispute(row.charge_reference, None, "needs_response")
    await eventually(lambda: credited(0), 30, "the clawback")
    shop.stripe.account.change_dispute(dispute["id"], "won")
    await eventually(lambda: credited(2750), 30, "the credits' return")
    sums = "SELECT 1 FROM billing.balance_ledger GROUP BY transfer_id HAVING sum(amount_credits) <> 0"
    assert await shop.rows(sums, payment_id) == []
