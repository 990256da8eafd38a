"""The whole of payments in one process, against emulated providers over real HTTP and a real PostgreSQL."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx
import sqlalchemy as sa
from pydantic import SecretStr

from catalogue.credit_packs import load_credit_packs
from contracts.billing import CreditsGranted
from contracts.message import Message
from contracts.payments import CreatePayment, Provider
from local_platform.payment_providers.btcpay_emulator import BtcPayEmulator
from local_platform.payment_providers.nowpayments_emulator import NowPaymentsEmulator
from local_platform.payment_providers.stripe_emulator import StripeEmulator
from messaging.ids import new_id
from messaging.leased_worker import LeasedWorker
from messaging.received import Received
from messaging.transaction import Transactions
from payments.domain.payment_state import Resolution
from payments.domain.records import PaymentRecord, RefundRecord, ReviewRecord
from payments.handlers.purchases import Policy, create_payment
from payments.handlers.refunds import request_refund
from payments.handlers.reviews import resolve_review
from payments.http import build_app
from payments.loops.provider_workers import Intervals, ProviderWorkers
from payments.loops.unposted import report_unposted
from payments.providers.interface import PaymentProvider
from payments.providers.registry import build_providers
from payments.repository import payments
from payments.repository import refunds as refund_rows
from payments.repository.reviews import _record as review_record
from payments.settings import Settings
from payments.tables import credit_movements, payment_transactions, provider_events, refunds, reviews
from payments.wake_ups import WakeUps
from service_runtime.authorities import trusted_authorities
from service_runtime.database_watch import DatabaseClock
from tests.payments.emulators import Emulators, emulated_providers
from tests.support.databases import Database
from tests.support.serving import listening_socket, serving
from tests.support.waiting import eventually

M = TypeVar("M", bound=Message)


def received(payload: M) -> Received[M]:
    """A message as a consumer hands it to its handler."""
    return Received(
        message_id=new_id(),
        subject=payload.subject,
        payload=payload,
        correlation_id=new_id(),
        causation_id=None,
        occurred_at=datetime.now(UTC),
        traceparent=None,
        deliveries=1,
    )


@dataclass(frozen=True)
class OpenPayment:
    """A payment whose checkout is open, and what the buyer and the provider call it."""

    payment_id: UUID
    user_id: UUID
    reference: str
    checkout_url: str


@dataclass
class PaymentsHarness:
    """Payments with everything around it. ``run_loops`` does what the service's loops do, until nothing is due."""

    database: Database
    transactions: Transactions
    settings: Settings
    providers: dict[Provider, PaymentProvider]
    workers: dict[Provider, ProviderWorkers]
    url: str
    emulators: Emulators
    policy: Policy
    wake_ups: WakeUps
    http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=30, verify=trusted_authorities()))

    @property
    def stripe(self) -> StripeEmulator:
        return self.emulators.stripe

    @property
    def btcpay(self) -> BtcPayEmulator:
        return self.emulators.btcpay

    @property
    def nowpayments(self) -> NowPaymentsEmulator:
        return self.emulators.nowpayments

    async def create(
        self,
        provider: Provider = "stripe",
        pack: str = "creator",
        user: UUID | None = None,
        payment_id: UUID | None = None,
        return_url: str | None = None,
    ) -> UUID:
        """Handle the command to create a payment."""
        payment_id = payment_id or new_id()
        command = CreatePayment(
            payment_id=payment_id,
            user_id=user or uuid4(),
            provider=provider,
            pack_id=pack,
            return_url=return_url,
            requested_at=datetime.now(UTC),
        )
        async with self.transactions.begin() as tx:
            await create_payment(self.policy, self.wake_ups)(tx, [received(command)])
        return payment_id

    async def open(self, provider: Provider = "stripe", pack: str = "creator") -> OpenPayment:
        """Create a payment and open its checkout."""
        payment_id = await self.create(provider, pack)
        await self.run_loops()
        payment = await self.payment(payment_id)
        assert payment.status == "pending"
        assert payment.provider_reference is not None
        assert payment.checkout_url is not None
        return OpenPayment(payment_id, payment.user_id, payment.provider_reference, payment.checkout_url)

    async def buy(self, provider: Provider = "stripe") -> OpenPayment:
        """Open a checkout, pay for it and poll."""
        opened = await self.open(provider)
        self.emulators.running[provider].pay_in_full(opened.reference)
        await self.poll_all()
        assert (await self.payment(opened.payment_id)).status == "settled"
        return opened

    async def unconfirmed_grants(self) -> list[CreditsGranted]:
        """Buy a pack as if it were an hour ago; returns the confirmations that billing has not sent."""
        opened = await self.buy()
        an_hour_ago = sa.update(credit_movements).values(ordered_at=sa.func.now() - timedelta(hours=1))
        async with self.transactions.begin() as tx:
            movements = (await tx.connection.execute(an_hour_ago.returning(credit_movements.c.movement_id))).scalars()
            return [
                CreditsGranted(
                    grant_id=movement, user_id=opened.user_id, amount_credits=1, payment_id=opened.payment_id, lines=()
                )
                for movement in movements
            ]

    async def run_loops(self) -> None:
        """Do what is due at every provider."""
        await asyncio.gather(*(run_due(workers) for workers in self.workers.values()))

    async def run_sweeps(self) -> None:
        """Every sweep that is due, of every provider."""
        await asyncio.gather(*(run_once(workers.sweeps) for workers in self.workers.values()))
        await report_unposted(self.transactions)

    async def poll_all(self) -> None:
        """Every planned poll and try, now."""
        await self.make_all_due()
        await self.run_loops()

    def compare_daily(self) -> None:
        """From now on only the events are due in every sweep."""
        self.workers = self.new_workers(compare=timedelta(days=1))

    def new_workers(self, compare: timedelta = timedelta(0)) -> dict[Provider, ProviderWorkers]:
        """The workers of one more replica; each sweep of events is due again at once."""
        intervals = Intervals(poll_seconds=60, events=timedelta(0), compare=compare)
        return {
            name: ProviderWorkers(self.transactions, provider, intervals, self.wake_ups)
            for name, provider in self.providers.items()
        }

    async def fail_next(self, path: str, status: int = 500, **how: Any) -> None:
        """The next call of Stripe's API under ``path`` fails; the client's own repetitions are further calls."""
        url = f"{self.stripe.account.public_url}/admin/failures"
        await self.http.post(url, json={"path": path, "status": status, **how})

    async def act_at_btcpay(self, opened: OpenPayment, act: str) -> None:
        """The chain does something to an invoice."""
        await self.http.post(f"{self.btcpay.account.url}/admin/invoices/{opened.reference}/{act}")

    async def hint(self, opened: OpenPayment) -> None:
        """Something happened to the payment: poll until nothing is due.

        A webhook that comes at the same moment may lock the payment.
        """
        async with self.transactions.begin() as tx:
            await payments.hint_payments(tx.connection, [opened.payment_id])
        columns = payment_transactions.c
        due = sa.select(sa.func.count()).where(columns.next_look_at <= sa.func.now())

        async def nothing_due() -> bool:
            await self.run_loops()
            return int(await self.scalar(due)) == 0

        await eventually(nothing_due, what="a poll of everything that is due")

    async def make_older(self, payment_id: UUID, age: timedelta) -> None:
        """As if the payment had been made long ago: a test cannot turn the database's clock."""
        aged = {"created_at": sa.func.now() - age, "expires_at": sa.func.now() - age}
        await self.change(payment_transactions.c.payment_id == payment_id, **aged)

    async def change(self, which: sa.ColumnElement[bool], **values: Any) -> None:
        """Change rows of payments behind the service's back."""
        async with self.transactions.begin() as tx:
            await tx.connection.execute(sa.update(payment_transactions).where(which).values(**values))

    async def make_all_due(self) -> None:
        """As if every planned poll were due and every lease over: a test cannot turn the database's clock.

        Webhooks that are under way arrive first: one that locks a payment's row would have it skipped.
        """
        await eventually(lambda: self.emulators.idle, 30, "the webhooks' delivery")
        async with self.transactions.begin() as tx:
            due = sa.update(payment_transactions).where(payment_transactions.c.next_look_at.is_not(None))
            await tx.connection.execute(due.values(next_look_at=sa.func.now(), leased_until=None))
            unmatched = sa.update(provider_events).where(provider_events.c.next_match_at.is_not(None))
            await tx.connection.execute(unmatched.values(next_match_at=sa.func.now(), leased_until=None))
            requested = sa.update(refunds).where(refunds.c.next_try_at.is_not(None))
            await tx.connection.execute(requested.values(next_try_at=sa.func.now(), leased_until=None))

    async def payment(self, payment_id: UUID) -> PaymentRecord:
        async with self.transactions.begin() as tx:
            payment = await payments.find_payment(tx.connection, payment_id)
        assert payment is not None
        return payment

    async def payment_ids(self) -> list[UUID]:
        """Every payment, oldest first."""
        statement = sa.select(payment_transactions.c.payment_id).order_by(payment_transactions.c.created_at)
        async with self.transactions.begin() as tx:
            return list((await tx.connection.execute(statement)).scalars())

    async def refund(self, refund_id: UUID) -> RefundRecord:
        async with self.transactions.begin() as tx:
            refund = await refund_rows.find_refund(tx.connection, refund_id)
        assert refund is not None
        return refund

    async def charge_of(self, opened: OpenPayment) -> str:
        """What the provider calls the money of a paid payment."""
        reference = (await self.payment(opened.payment_id)).charge_reference
        assert reference is not None
        return reference

    async def movements(self, payment_id: UUID) -> dict[str, int]:
        """Credits by kind of movement."""
        async with self.transactions.begin() as tx:
            found = await tx.connection.execute(
                sa.select(credit_movements.c.kind, sa.func.sum(credit_movements.c.amount_credits))
                .where(credit_movements.c.payment_id == payment_id)
                .group_by(credit_movements.c.kind)
            )
            return {kind: int(amount) for kind, amount in found}

    async def balance(self, payment_id: UUID) -> int:
        """The credits that the payment has left with the user."""
        moved = await self.movements(payment_id)
        taken = moved.get("refund", 0) + moved.get("dispute", 0)
        return sum(moved.values()) - 2 * taken

    async def outcome(self, payment_id: UUID) -> tuple[str, int]:
        """The payment's status, and the credits that it has left with the user."""
        return (await self.payment(payment_id)).status, await self.balance(payment_id)

    async def billing_commands(self) -> list[tuple[str, dict[str, Any]]]:
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

    async def scalar(self, statement: sa.Select[Any]) -> Any:
        """The one value that ``statement`` reads."""
        async with self.transactions.begin() as tx:
            return (await tx.connection.execute(statement)).scalar_one()

    async def reviews(self) -> list[ReviewRecord]:
        """Every review, decided or not, oldest first."""
        async with self.transactions.begin() as tx:
            rows = await tx.connection.execute(sa.select(reviews).order_by(reviews.c.opened_at))
            return [review_record(row) for row in rows]

    async def open_reviews(self) -> list[ReviewRecord]:
        return [review for review in await self.reviews() if review.resolved_at is None]

    async def open_review_codes(self) -> list[str]:
        return [review.code for review in await self.open_reviews()]

    async def resolve(self, review_id: UUID, resolution: Resolution, actor: str = "ada") -> None:
        """An operator decides a review."""
        async with self.transactions.begin() as tx:
            await resolve_review(tx, review_id, resolution, actor, "spoke with the buyer")

    async def request_refund(
        self, payment_id: UUID, amount_cents: int, *, manual: bool = False, refund_id: UUID | None = None
    ) -> UUID:
        """An operator requests a refund, or records one that was paid out by hand."""
        async with self.transactions.begin() as tx:
            return await request_refund(tx, payment_id, amount_cents, "ada", "goodwill", manual, refund_id)

    async def deliver(self, body: bytes, headers: Mapping[str, str], provider: str = "stripe") -> httpx.Response:
        """Send a webhook as a provider would."""
        return await self.http.post(f"{self.url}/webhooks/{provider}", content=body, headers=headers)


@asynccontextmanager
async def running_harness(database: Database) -> AsyncIterator[PaymentsHarness]:
    """Serve the webhook ingress and the emulators; the loops are the test's to run."""
    transactions = Transactions(database.engine("payments", pool_size=20), producer="payments")
    listener, url = listening_socket()
    async with emulated_providers(url) as emulators:
        settings = harness_settings(database, emulators, url)
        providers = build_providers(settings, DatabaseClock())
        wake_ups = WakeUps()
        harness = PaymentsHarness(
            database=database,
            transactions=transactions,
            settings=settings,
            providers=providers,
            workers={},
            url=url,
            emulators=emulators,
            policy=Policy(
                packs={pack.id: pack for pack in load_credit_packs()},
                providers=frozenset(providers),
                max_open_payments=5,
                lifetime=timedelta(hours=1),
            ),
            wake_ups=wake_ups,
        )
        harness.workers = harness.new_workers()
        async with serving(build_app(transactions, providers, wake_ups), listener):
            yield harness
            await harness.http.aclose()
            for provider in providers.values():
                await provider.close()


def harness_settings(database: Database, emulators: Emulators, url: str, **changes: Any) -> Settings:
    """The settings of a payments service at ``url``, over this database and these providers."""
    values = {
        "database_url": SecretStr(database.dsn("payments")),
        "nats_url": "nats://nowhere.invalid",
        "nats_user": "payments",
        "nats_password": SecretStr("unused-here"),
        "ops_port": 0,
        "http_port": 0,
        "public_base_url": url,
        **emulators.settings(),
    }
    return Settings(**values | changes)


async def run_once(worker: LeasedWorker[Any]) -> int:
    """Work on what is due now; returns how many rows that were."""
    claimed = await worker.fill()
    await worker.idle()
    return claimed


async def run_due(workers: ProviderWorkers) -> None:
    """Match events, send refunds and poll payments, until nothing is due."""
    while sum([await run_once(worker) for worker in (workers.events, workers.refunds, workers.polls)]):
        pass
