"""The whole of payments in one process, against emulated providers over real HTTP and a real PostgreSQL."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa

from catalogue.credit_packs import load_credit_packs
from contracts.payments import CreatePayment, Provider
from local_platform.payment_providers.btcpay_emulator import BtcPayEmulator
from local_platform.payment_providers.nowpayments_emulator import NowPaymentsEmulator
from local_platform.payment_providers.stripe_emulator import StripeEmulator
from messaging.ids import new_id
from messaging.transaction import Transactions
from payments import handlers, repository
from payments.driver import Driver
from payments.handlers import Policy
from payments.http import build_app
from payments.providers.btcpay import BtcPay
from payments.providers.interface import PaymentProvider
from payments.providers.nowpayments import NowPayments
from payments.providers.stripe_checkout import StripeCheckout
from payments.reconciliation import Reconciliation, report_unposted
from payments.tables import credit_movements, payment_transactions, provider_events, refunds, reviews
from tests.support.databases import Database
from tests.support.serving import listening_socket, serving
from tests.support.waiting import eventually

SECRET = "whsec_first"
ROTATED = "whsec_second"
RECORD = Path(os.environ.get("REELHOUSE_STRIPE_REQUESTS", ".reelhouse/recorded/stripe-requests.jsonl"))


@dataclass
class Desk:
    """Payments with everything around it. ``pump`` does what the service's loops do, until nothing is due."""

    database: Database
    transactions: Transactions
    providers: dict[Provider, PaymentProvider]
    drivers: dict[Provider, Driver]
    sweeps: dict[Provider, Reconciliation]
    url: str
    stripe: StripeEmulator
    btcpay: BtcPayEmulator
    nowpayments: NowPaymentsEmulator
    policy: Policy
    due: asyncio.Event
    http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=30))

    @property
    def url_of_btcpay(self) -> str:
        return self.btcpay.public_url

    async def create(
        self,
        provider: Provider = "stripe",
        pack: str = "creator",
        user: UUID | None = None,
        payment_id: UUID | None = None,
    ) -> UUID:
        payment_id = payment_id or new_id()
        command = CreatePayment(
            payment_id=payment_id,
            user_id=user or uuid4(),
            provider=provider,
            pack_id=pack,
            requested_at=json_now(),
        )
        async with self.transactions.begin() as tx:
            await handlers.create_payment(self.policy, lambda: None)(tx, [received(command)])
        return payment_id

    async def open(self, provider: Provider = "stripe", pack: str = "creator") -> sa.Row[Any]:
        payment_id = await self.create(provider, pack)
        await self.pump()
        row = await self.payment(payment_id)
        assert row.status == "pending"
        return row

    async def pump(self) -> None:
        await asyncio.gather(*(driver.drive() for driver in self.drivers.values()))

    async def sweep(self) -> None:
        """Every sweep that is due, of every provider."""
        await asyncio.gather(*(sweep.sweep() for sweep in self.sweeps.values()), report_unposted(self.transactions))

    def compare_daily(self) -> None:
        """From now on events alone are asked for in every sweep."""
        self.sweeps = _sweeps(self.transactions, self.providers, timedelta(days=1))

    async def look_again(self) -> None:
        """Every planned look and try, now."""
        await self.let_time_pass()
        await self.pump()

    async def fail_next(self, path: str, status: int = 500, **how: Any) -> None:
        """The next call of Stripe's API under ``path`` fails; the client's own repetitions are further calls."""
        url = f"{self.stripe.account.public_url}/admin/failures"
        await self.http.post(url, json={"path": path, "status": status, **how})

    async def make_older(self, payment_id: UUID, **age: Any) -> None:
        """As if the payment had been made long ago: the database's clock is not ours to turn."""
        aged = {"created_at": sa.func.now() - timedelta(**age), "expires_at": sa.func.now() - timedelta(**age)}
        async with self.transactions.begin() as tx:
            of_it = sa.update(payment_transactions).where(payment_transactions.c.payment_id == payment_id)
            await tx.connection.execute(of_it.values(**aged))

    async def open_reviews(self) -> list[str]:
        return [review.code for review in await self.reviews() if review.resolved_at is None]

    async def let_time_pass(self) -> None:
        """As if every planned look were due and every lease over: the database's clock is not ours to turn.

        Webhooks that are under way arrive first: one that holds a payment's row lock would have it skipped.
        """
        senders = (self.stripe.account.sender, self.btcpay.sender, self.nowpayments.sender)
        await eventually(lambda: all(sender.idle for sender in senders), 30, "the webhooks' delivery")
        async with self.transactions.begin() as tx:
            due = sa.update(payment_transactions).where(payment_transactions.c.next_look_at.is_not(None))
            await tx.connection.execute(due.values(next_look_at=sa.func.now(), leased_until=None))
            await tx.connection.execute(
                sa.update(provider_events)
                .where(provider_events.c.next_match_at.is_not(None))
                .values(next_match_at=sa.func.now())
            )
            ordered = sa.update(refunds).where(refunds.c.next_try_at.is_not(None))
            await tx.connection.execute(ordered.values(next_try_at=sa.func.now()))

    async def payment(self, payment_id: UUID) -> sa.Row[Any]:
        async with self.transactions.begin() as tx:
            row = await repository.find_payment(tx.connection, payment_id)
        assert row is not None
        return row

    async def movements(self, payment_id: UUID) -> dict[str, int]:
        async with self.transactions.begin() as tx:
            found = await tx.connection.execute(
                sa.select(credit_movements.c.kind, sa.func.sum(credit_movements.c.amount_credits))
                .where(credit_movements.c.payment_id == payment_id)
                .group_by(credit_movements.c.kind)
            )
            return {kind: int(amount) for kind, amount in found}

    async def balance(self, payment_id: UUID) -> int:
        moved = await self.movements(payment_id)
        taken = moved.get("refund", 0) + moved.get("dispute", 0)
        return sum(moved.values()) - 2 * taken

    async def commands(self) -> list[tuple[str, dict[str, Any]]]:
        """What was sent to billing, in order."""
        async with self.transactions.begin() as tx:
            rows = await tx.connection.execute(
                sa.text(
                    "SELECT subject, payload FROM payments.outbox_messages WHERE subject LIKE 'billing.command.%'"
                    " ORDER BY message_id"
                )
            )
            return [(subject, json.loads(payload)) for subject, payload in rows]

    async def count(self, table: sa.Table) -> int:
        async with self.transactions.begin() as tx:
            return int((await tx.connection.execute(sa.select(sa.func.count()).select_from(table))).scalar_one())

    async def reviews(self) -> list[sa.Row[Any]]:
        async with self.transactions.begin() as tx:
            return list(await tx.connection.execute(sa.select(reviews).order_by(reviews.c.opened_at)))

    async def deliver(self, body: bytes, headers: dict[str, str], provider: str = "stripe") -> httpx.Response:
        return await self.http.post(f"{self.url}/webhooks/{provider}", content=body, headers=headers)


def received(command: Any) -> Any:
    from messaging.received import Received

    return Received(
        message_id=new_id(),
        subject=command.subject,
        payload=command,
        correlation_id=command.payment_id,
        causation_id=None,
        occurred_at=json_now(),
        traceparent=None,
        deliveries=1,
    )


def json_now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


@pytest.fixture
async def desk(make_database: Callable[..., Awaitable[Database]]) -> AsyncIterator[Desk]:
    database = await make_database("payments")
    transactions = Transactions(database.engine("payments", pool_size=20), producer="payments")
    listener, url = listening_socket()
    stripe_listener, stripe_url = listening_socket()
    btcpay_listener, btcpay_url = listening_socket()
    coins_listener, coins_url = listening_socket()
    stripe = StripeEmulator("rk_test", stripe_url)
    stripe.account.add_endpoint(f"{url}/webhooks/stripe", ["*"], SECRET)
    btcpay = BtcPayEmulator("btc-key", "store", btcpay_url, f"{url}/webhooks/btcpay", SECRET)
    coins = NowPaymentsEmulator("now-key", "ops@example.com", "pw", coins_url, SECRET)
    success = "http://front/thanks"
    providers: dict[Provider, PaymentProvider] = {
        "stripe": StripeCheckout("rk_test", (ROTATED, SECRET), success, "http://front/credits", stripe_url, 5.0),
        "btcpay": BtcPay(btcpay_url, "btc-key", "store", (SECRET,), success),
        "nowpayments": NowPayments(
            coins_url, "now-key", (SECRET,), "ops@example.com", "pw", f"{url}/webhooks/nowpayments", success
        ),
    }
    policy = Policy(
        packs={pack.id: pack for pack in load_credit_packs()},
        providers=frozenset(providers),
        max_open_payments=5,
        lifetime=timedelta(hours=1),
    )
    drivers = {name: Driver(transactions, provider) for name, provider in providers.items()}
    sweeps = _sweeps(transactions, providers, timedelta(0))
    due = asyncio.Event()
    app = build_app(transactions, providers, due.set)
    desk = Desk(database, transactions, providers, drivers, sweeps, url, stripe, btcpay, coins, policy, due)
    async with (
        serving(app, listener),
        serving(stripe.app(), stripe_listener),
        serving(btcpay.app(), btcpay_listener),
        serving(coins.app(), coins_listener),
    ):
        yield desk
        await desk.http.aclose()
        for provider in providers.values():
            await provider.close()
    _record(stripe.requests)


def _sweeps(
    transactions: Transactions, providers: dict[Provider, PaymentProvider], daily: timedelta
) -> dict[Provider, Reconciliation]:
    return {
        name: Reconciliation(transactions, provider, timedelta(0), daily, lambda: None)
        for name, provider in providers.items()
    }


def _record(requests: list[dict[str, Any]]) -> None:
    """Keep what was asked of Stripe, to be held against its published OpenAPI description."""
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    with RECORD.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(request) + "\n" for request in requests)
