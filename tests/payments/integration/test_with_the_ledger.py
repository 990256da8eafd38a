"""Payments and billing together, over the real broker: what was paid is in the ledger, once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from billing import consumers as billing_consumers
from catalogue.credit_packs import load_credit_packs
from contracts.payments import CreatePayment
from messaging.ids import new_id
from messaging.runtime import Messaging
from messaging.transaction import Transactions
from payments.handlers.purchases import Policy, create_payment
from payments.main import build
from payments.wake_ups import WakeUps
from service_runtime.settings import ServiceSettings
from tests.payments.emulators import Emulators, emulated_providers
from tests.payments.harness import harness_settings, received
from tests.support.databases import Database
from tests.support.serving import listening_socket, serving
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(120)


class PaymentsAndBillingHarness:
    """A running pair of services, and the providers that one of them talks to."""

    def __init__(self, database: Database, emulators: Emulators) -> None:
        self.stripe = emulators.stripe
        self._engine = database.superuser_engine()
        self._transactions = Transactions(database.engine("payments"), producer="payments")
        self._policy = Policy(
            packs={pack.id: pack for pack in load_credit_packs()},
            providers=frozenset({"stripe"}),
            max_open_payments=5,
            lifetime=timedelta(hours=1),
        )

    async def buy(self, user_id: UUID) -> UUID:
        """Create a payment, wait for its checkout and pay."""
        payment_id = new_id()
        command = CreatePayment(
            payment_id=payment_id,
            user_id=user_id,
            provider="stripe",
            pack_id="creator",
            requested_at=datetime.now(UTC),
        )
        async with self._transactions.begin() as tx:
            await create_payment(self._policy, WakeUps())(tx, [received(command)])
        self.stripe.account.pay((await self.payment(payment_id, "pending")).provider_reference)
        return payment_id

    async def payment(self, payment_id: UUID, status: str) -> sa.Row[Any]:
        """The payment's row, once it has this status."""
        statement = "SELECT * FROM payments.payment_transactions WHERE payment_id = :id AND status = :status"
        rows = await eventually(lambda: self.rows(statement, payment_id, status), 30, f"a {status} payment")
        row: sa.Row[Any] = rows[0]
        return row

    async def rows(self, statement: str, payment_id: UUID, status: str = "") -> list[sa.Row[Any]]:
        async with self._engine.connect() as connection:
            values = {"id": payment_id, "status": status}
            return list(await connection.execute(sa.text(statement), values))


@pytest.fixture
async def harness(
    make_database: Callable[..., Awaitable[Database]], broker_settings: Callable[[str], ServiceSettings]
) -> AsyncIterator[PaymentsAndBillingHarness]:
    """Both services in this process, over one database and one broker."""
    database = await make_database("payments", "billing")
    listener, url = listening_socket()
    async with emulated_providers(url) as emulators:
        broker = broker_settings("payments")
        settings = harness_settings(
            database, emulators, url, nats_url=broker.nats_url, nats_password=broker.nats_password, poll_seconds=0.2
        )
        payments = build(settings)
        billing = Messaging(
            service="billing",
            engine=database.engine("billing"),
            settings=broker_settings("billing"),
            subscriptions=billing_consumers.subscriptions(),
        )
        async with serving(payments.app, listener):
            tasks = [
                asyncio.create_task(component.run()) for component in (*payments.components, *billing.components())
            ]
            yield PaymentsAndBillingHarness(database, emulators)
            pending = set(tasks)
            while pending:
                # Python 3.11's wait_for, inside the broker's client, can swallow one cancellation.
                for task in pending:
                    task.cancel()
                _, pending = await asyncio.wait(pending, timeout=0.5)
            await payments.stop()


BALANCE = """
    SELECT available_credits, receivable_credits FROM billing.users
    WHERE user_id = (SELECT user_id FROM payments.payment_transactions WHERE payment_id = :id)
"""


async def test_a_bought_pack_reaches_the_ledger_and_a_dispute_takes_it_back(
    harness: PaymentsAndBillingHarness,
) -> None:
    user_id = uuid4()
    payment_id = await harness.buy(user_id)

    async def has_credits(expected: int) -> bool:
        rows = await harness.rows(BALANCE, payment_id)
        return bool(rows) and rows[0].available_credits == expected

    await eventually(lambda: has_credits(2750), 30, "the credits")
    unposted = "SELECT 1 FROM payments.credit_movements WHERE payment_id = :id AND posted_at IS NULL"

    async def posted() -> bool:
        return not await harness.rows(unposted, payment_id)

    await eventually(posted, 30, "billing's confirmation")
    row = await harness.payment(payment_id, "settled")
    dispute = harness.stripe.account.dispute(row.charge_reference, None, "needs_response")
    await eventually(lambda: has_credits(0), 30, "the clawback")
    harness.stripe.account.change_dispute(dispute["id"], "won")
    await eventually(lambda: has_credits(2750), 30, "the credits' return")
    sums = "SELECT 1 FROM billing.balance_ledger GROUP BY transfer_id HAVING sum(amount_credits) <> 0"
    assert await harness.rows(sums, payment_id) == []
