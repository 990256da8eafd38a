"""A small healthy platform: rows of every service that agree with each other.

Credits move through billing's own handlers; the rows of the others are written as those services would have left them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from auditor.invariants.messages import INBOXES
from billing import handlers
from contracts.billing import CreditsReserved, GrantCredits, GrantSignupCredits, signup_grant_id
from contracts.message import SERVICES, Message, Service
from contracts.payments import PaymentChanged
from contracts.permissions import durable_name
from contracts.registry import MESSAGES, consumed_by, stream_of
from contracts.storage import DeleteFiles
from contracts.values import LedgerLine
from messaging.ids import new_id
from tests.billing.ledger_harness import (
    LedgerHarness,
    cancelled,
    clawback,
    completed,
    failed,
    grant,
    order,
    variants,
    withdrawn,
)
from tests.support.databases import Database

_MADE_UP: dict[str, Callable[[], object]] = {
    "uuid": uuid4,
    "text": lambda: f"made up {uuid4()}",
    "integer": lambda: 1,
    "bigint": lambda: 1,
    "smallint": lambda: 1,
    "double precision": lambda: 1.0,
    "boolean": lambda: False,
    "jsonb": lambda: "{}",
    "bytea": lambda: b"made up",
}

_TIMES: dict[str | None, str] = {
    "now": "now()",
    "in an hour": "now() + interval '1 hour'",
    "days ago": "now() - interval '3 days'",
    None: "NULL",
}

# The schemas do not change within a test session.
_COLUMNS: dict[str, list[tuple[str, str, bool]]] = {}


PRICE_CENTS = 1000


@dataclass(frozen=True)
class Order:
    """An order, as it ended or stands."""

    generation_id: UUID
    user_id: UUID
    price_credits: int
    status: str
    late: bool = False
    asset_id: UUID | None = None
    deleted: bool = False
    variant_number: int | None = None
    """Its place among the variants of the one order that has some."""
    is_withdrawn: bool = False


@dataclass(frozen=True)
class Movement:
    """Credits that payments ordered of billing."""

    kind: Any
    amount_credits: int
    movement_id: UUID = field(default_factory=new_id)

    def command(self, payment: "Payment") -> Message:
        """The command that payments sends to billing."""
        user_id, payment_id = payment.user_id, payment.payment_id
        if self.kind in ("refund", "dispute"):
            return clawback(user_id, self.amount_credits, payment_id, self.kind, clawback_id=self.movement_id)
        return grant(user_id, self.amount_credits, self.kind, grant_id=self.movement_id, payment_id=payment_id)


@dataclass(frozen=True)
class Payment:
    """A payment of ``PRICE_CENTS``, as it stands, with what was ordered of billing for it."""

    payment_id: UUID
    user_id: UUID
    status: str
    credits: int
    bonus_credits: int = 0
    refunded_cents: int = 0
    paid_cents: int = 1000
    dispute: str | None = None
    review: str | None = None
    movements: tuple[Movement, ...] = ()


@dataclass
class PlatformHarness:
    """A healthy platform in ``database``, the ids of what is in it, and a way to corrupt it.

    ``names`` are the ids by name, for SQL.
    """

    database: Database
    user: UUID = field(default_factory=new_id)
    other_user: UUID = field(default_factory=new_id)
    buyer: UUID = field(default_factory=new_id)
    debtor: UUID = field(default_factory=new_id)
    payment: UUID = field(default_factory=new_id)
    purchase: UUID = field(default_factory=new_id)
    bonus: UUID = field(default_factory=new_id)
    refunded: UUID = field(default_factory=new_id)
    refund: UUID = field(default_factory=new_id)
    partly_refunded: UUID = field(default_factory=new_id)
    overpaid: UUID = field(default_factory=new_id)
    underpaid: UUID = field(default_factory=new_id)
    refund_failed: UUID = field(default_factory=new_id)
    dispute_won: UUID = field(default_factory=new_id)
    won: UUID = field(default_factory=new_id)
    dispute_lost: UUID = field(default_factory=new_id)
    lost: UUID = field(default_factory=new_id)
    disputed: UUID = field(default_factory=new_id)
    pending: UUID = field(default_factory=new_id)
    without_checkout: UUID = field(default_factory=new_id)
    in_review: UUID = field(default_factory=new_id)
    refused_payment: UUID = field(default_factory=new_id)
    signup: UUID = field(default_factory=new_id)
    delivered: UUID = field(default_factory=new_id)
    delivered_to_debtor: UUID = field(default_factory=new_id)
    failed: UUID = field(default_factory=new_id)
    cancelled: UUID = field(default_factory=new_id)
    late: UUID = field(default_factory=new_id)
    running: UUID = field(default_factory=new_id)
    refused: UUID = field(default_factory=new_id)
    chooser: UUID = field(default_factory=new_id)
    first_variant: UUID = field(default_factory=new_id)
    second_variant: UUID = field(default_factory=new_id)
    withdrawn_variant: UUID = field(default_factory=new_id)
    asset: UUID = field(default_factory=new_id)
    newcomer: UUID = field(default_factory=new_id)
    welcome: UUID = field(init=False)

    def __post_init__(self) -> None:
        self.welcome = signup_grant_id(self.newcomer)

    @property
    def names(self) -> dict[str, str]:
        return {name: str(value) for name, value in vars(self).items() if isinstance(value, UUID)}

    async def corrupt(self, *statements: str) -> dict[str, str]:
        """Run ``statements`` as superuser, past all triggers; returns the names that they and tests may use."""
        async with self.database.superuser_engine().begin() as connection:
            return await self.corrupt_within(connection, *statements)

    async def corrupt_within(self, connection: AsyncConnection, *statements: str) -> dict[str, str]:
        """The same in a transaction of the caller, who may roll it back."""
        names = self.names
        first_transfer = text("SELECT transfer_id FROM billing.balance_ledger WHERE posting_id = 1")
        names["transfer"] = str(await connection.scalar(first_transfer))
        for service in SERVICES:
            messages = text(f"SELECT subject, min(message_id::text) FROM {service}.outbox_messages GROUP BY 1")
            names |= {name_of(subject): message_id for subject, message_id in await connection.execute(messages)}
        names["message"] = names[name_of(CreditsReserved.subject)]
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            await connection.exec_driver_sql(statement.format(**names))
        return names

    @cached_property
    def orders(self) -> tuple[Order, ...]:
        """Every order, as it ended or stands."""
        return (
            Order(self.delivered, self.user, 30, "completed", asset_id=self.asset),
            Order(self.failed, self.user, 10, "failed"),
            Order(self.cancelled, self.user, 8, "cancelled"),
            Order(self.late, self.user, 12, "completed", late=True, asset_id=new_id(), deleted=True),
            Order(self.running, self.user, 9, "running"),
            Order(self.refused, self.user, 10_000, "refused"),
            Order(self.delivered_to_debtor, self.debtor, 30, "completed", asset_id=new_id()),
            Order(self.first_variant, self.chooser, 7, "completed", asset_id=new_id(), variant_number=1),
            Order(self.second_variant, self.chooser, 7, "failed", variant_number=2),
            # Its user cancelled it before billing had seen the order.
            Order(self.withdrawn_variant, self.chooser, 7, "cancelled", variant_number=3, is_withdrawn=True),
        )

    @cached_property
    def payments(self) -> tuple[Payment, ...]:
        """Every payment, with what was ordered of billing for it, in order."""
        return (
            Payment(
                self.payment,
                self.user,
                "settled",
                100,
                10,
                movements=(Movement("purchase", 100, self.purchase), Movement("bonus", 10, self.bonus)),
            ),
            Payment(
                self.refunded,
                self.buyer,
                "refunded",
                20,
                2,
                refunded_cents=1000,
                movements=(Movement("purchase", 20), Movement("bonus", 2), Movement("refund", 22, self.refund)),
            ),
            # Two refunds of 33.5 credits each took 33 and 34; the first one failed, which leaves 33.
            Payment(
                self.partly_refunded,
                self.buyer,
                "partially_refunded",
                100,
                refunded_cents=335,
                movements=(
                    Movement("purchase", 100),
                    Movement("refund", 33),
                    Movement("refund", 34),
                    Movement("refund_failed", 33, self.refund_failed),
                    Movement("refund_failed", 1),
                ),
            ),
            Payment(
                self.dispute_won,
                self.buyer,
                "settled",
                50,
                dispute="won",
                movements=(Movement("purchase", 50), Movement("dispute", 50), Movement("dispute_won", 50, self.won)),
            ),
            # Most of it was spent before the dispute.
            Payment(
                self.dispute_lost,
                self.debtor,
                "dispute_lost",
                40,
                dispute="lost",
                movements=(Movement("purchase", 40), Movement("dispute", 40, self.lost)),
            ),
            # Refunded, and disputed all the same: it takes its credits once.
            Payment(
                self.disputed,
                self.buyer,
                "disputed",
                15,
                refunded_cents=1000,
                dispute="open",
                movements=(Movement("purchase", 15), Movement("dispute", 15)),
            ),
            # A surplus was sent back: that costs nothing.
            Payment(
                self.overpaid,
                self.buyer,
                "settled",
                30,
                paid_cents=1500,
                refunded_cents=500,
                movements=(Movement("purchase", 30),),
            ),
            # A person credited it although 800 cents had come; half of them went back.
            Payment(
                self.underpaid,
                self.buyer,
                "partially_refunded",
                60,
                paid_cents=800,
                refunded_cents=400,
                movements=(Movement("purchase", 60), Movement("refund", 30)),
            ),
            Payment(self.pending, self.buyer, "pending", 10, paid_cents=0),
            Payment(self.without_checkout, self.buyer, "pending", 10, review="no_checkout"),
            # Paid, and put in doubt later.
            Payment(
                self.in_review,
                self.buyer,
                "review",
                10,
                dispute="open",
                review="underpaid",
                movements=(Movement("purchase", 10),),
            ),
            Payment(new_id(), self.buyer, "expired", 10),
        )


async def build_platform(database: Database) -> PlatformHarness:
    """Make a platform at rest: every message is published and received."""
    platform = PlatformHarness(database)
    lines = await _move_credits(database, platform)
    async with database.superuser_engine().begin() as connection:
        for order in platform.orders:
            await _add_order(connection, order, platform.first_variant)
        for payment in platform.payments:
            await _add_payment(connection, payment)
        refused = {"payment_id": platform.refused_payment, "user_id": platform.user}
        await add_row(connection, "gateway.payment_requests", **refused, refusal_code="unknown_pack")
        await add_row(connection, "gateway.payments", **refused, status="refused")
        await add_row(
            connection, "gateway.signups", user_id=platform.newcomer, grant_id=platform.welcome, amount_credits=25
        )
        await _add_waiting(connection, platform)
        await _add_statements(connection, lines)
        await _add_messages(connection, platform)
        await settle_messages(connection)
        await _archive(connection, platform.delivered_to_debtor)
    return platform


async def _move_credits(database: Database, platform: PlatformHarness) -> dict[UUID, list[LedgerLine]]:
    ledger = LedgerHarness(database.engine("billing"))
    await ledger.grant(platform.other_user, 50)
    await ledger.grant(platform.chooser, 50)
    await ledger.grant(
        platform.buyer, 5, "signup", grant_id=platform.signup, expires_at=datetime.now(UTC) - timedelta(minutes=1)
    )
    command = GrantSignupCredits(user_id=platform.newcomer, amount_credits=25)
    await ledger.handle(partial(handlers.apply_commands, max_signup_credits=25), command)
    for payment in platform.payments:
        for movement in payment.movements:
            if movement.kind == "dispute" and payment.payment_id == platform.dispute_lost:
                await _reserve(ledger, platform)
            await ledger.handle(handlers.apply_commands, movement.command(payment))
    # Part of the debt is paid by what comes next.
    await ledger.grant(platform.debtor, 12)
    return ledger.lines


async def _reserve(ledger: LedgerHarness, platform: PlatformHarness) -> None:
    for one in platform.orders:
        request = order(one.user_id, one.price_credits, one.generation_id)
        if one.is_withdrawn:
            await ledger.handle(handlers.reserve, withdrawn(request, "cancelled"))
        elif one.variant_number is None:
            await ledger.handle(handlers.reserve, request)
    ids = [one.generation_id for one in platform.orders if one.variant_number is not None]
    await ledger.handle(handlers.reserve, variants(platform.chooser, 7, *ids))
    await ledger.handle(
        handlers.resolve,
        completed(platform.user, platform.delivered, 30),
        completed(platform.debtor, platform.delivered_to_debtor, 30),
        failed(platform.user, platform.failed),
        cancelled(platform.user, platform.cancelled),
        failed(platform.user, platform.late),
        completed(platform.user, platform.late, 0, late=True),
        completed(platform.chooser, platform.first_variant, 7),
        failed(platform.chooser, platform.second_variant),
    )


async def _add_order(connection: AsyncConnection, order: Order, first_variant: UUID) -> None:
    """The order at the gateway and, unless it was refused, at generation and storage."""
    owned = {"generation_id": order.generation_id, "user_id": order.user_id}
    ended = order.status != "running"
    funded = order.status != "refused" and not order.is_withdrawn
    charged = order.status == "completed" and not order.late
    file = {
        "object_key": f"library/{order.generation_id}",
        "poster_object_key": f"posters/{order.generation_id}",
        "size_bytes": 1000,
        "sha256": order.generation_id.hex,
    }
    variant = {
        "variant_of": first_variant,
        "variant_number": order.variant_number,
        "variant_count": 3,
        "model_id": "wan-2.2-t2v",
    }
    await add_row(connection, "gateway.generation_requests", **owned)
    await add_row(
        connection,
        "gateway.generations",
        **owned,
        **(file if order.asset_id else {}),
        status=order.status,
        late=order.late,
        version=1 if funded else 0,
        price_credits=order.price_credits,
        captured_credits=order.price_credits if charged else None,
        released_credits=order.price_credits if funded and ended and not charged else None,
        deleted_at="now" if order.deleted else None,
        **({} if order.variant_number is None else variant),
    )
    if not funded:
        return
    await add_row(
        connection,
        "generation.video_generations",
        **owned,
        price_credits=order.price_credits,
        kind="video",
        lane="standard",
        status=order.status,
        late=order.late,
        version=1,
        asset_id=order.asset_id,
        finished_at="now" if ended else None,
        deadline_at="now" if ended else "in an hour",
    )
    await add_row(
        connection,
        "generation.attempts",
        generation_id=order.generation_id,
        attempt_number=1,
        status={"running": "running", "failed": "failed", "cancelled": "cancelled"}.get(order.status, "succeeded"),
        ended_at="now" if ended else None,
        check_at="days ago" if ended else "now",
        # It was abandoned before anybody knew of a job.
        cancel_due_at="days ago" if order.status == "cancelled" else None,
    )
    if order.deleted:
        await add_row(connection, "storage.deletions", **owned, deleted_at="now", due_at=None)
    if order.asset_id:
        await add_row(connection, "storage.assets", **owned, **file, asset_id=order.asset_id, role="output")
        await add_row(connection, "storage.verifications", **owned, answered_at="now")
        await add_row(connection, "storage.assets", **owned, role="another")
        await add_row(
            connection,
            "storage.previews",
            **owned,
            asset_id=order.asset_id,
            due_at=None,
            ended_at="now",
            outcome="deleted",
        )


async def _add_payment(connection: AsyncConnection, payment: Payment) -> None:
    """The payment at payments and at the gateway."""
    owned = {"payment_id": payment.payment_id, "user_id": payment.user_id}
    shown = {
        "provider": "stripe",
        "status": payment.status,
        "version": 3,
        "price_cents": PRICE_CENTS,
        "currency": "usd",
        "credits": payment.credits,
        "bonus_credits": payment.bonus_credits,
        "refunded_cents": payment.refunded_cents,
    }
    await add_row(connection, "gateway.payment_requests", **owned)
    await add_row(connection, "gateway.payments", **owned, **shown)
    await add_row(
        connection,
        "payments.payment_transactions",
        **owned,
        **shown,
        paid_cents=payment.paid_cents,
        settled_at="now" if payment.movements else None,
        next_look_at="in an hour" if payment.status == "pending" and not payment.review else None,
    )
    for number, movement in enumerate(payment.movements):
        await add_row(
            connection,
            "payments.credit_movements",
            movement_id=movement.movement_id,
            payment_id=payment.payment_id,
            kind=movement.kind,
            reference=str(number),
            amount_credits=movement.amount_credits,
            posted_at="now",
        )
    about = {"payment_id": payment.payment_id, "provider": "stripe"}
    await add_row(connection, "payments.provider_events", **about, matched_at="now")
    if payment.refunded_cents:
        await add_row(
            connection,
            "payments.refunds",
            **about,
            amount_cents=payment.refunded_cents,
            state="succeeded",
            created_at="days ago",
        )
    if payment.dispute:
        await add_row(connection, "payments.disputes", **about, amount_cents=PRICE_CENTS, state=payment.dispute)
    if payment.review:
        await add_row(connection, "payments.reviews", payment_id=payment.payment_id, code=payment.review)


async def _add_waiting(connection: AsyncConnection, platform: PlatformHarness) -> None:
    """Rows that rightly wait, or were rightly left alone."""
    # Generation may end an order later than billing expects.
    await connection.execute(text("UPDATE billing.reservations SET deadline_at = now()"))
    await add_row(connection, "storage.verifications", generation_id=platform.running, next_try_at="now")
    for service in SERVICES:
        await add_row(connection, f"{service}.dead_letters", replayed_at="now")
        discarded = {"discarded_at": "now", "discarded_by": "Ada", "discard_reason": "a probe of ours"}
        await add_row(connection, f"{service}.dead_letters", **discarded)
    await add_row(connection, "generation.provider_callbacks", source="webhook")
    await add_row(
        connection, "generation.provider_callbacks", source="status", due_at="days ago", processed_at="days ago"
    )
    await add_row(connection, "payments.provider_events", received_at="days ago", match_attempts=12)
    await add_row(connection, "payments.provider_events", match_attempts=2, next_match_at="in an hour")
    await add_row(connection, "payments.provider_events", received_at="days ago", event_type="unreadable")
    await add_row(connection, "payments.reviews", reference="decided", opened_at="days ago", resolved_at="days ago")


async def _add_statements(connection: AsyncConnection, lines: dict[UUID, list[LedgerLine]]) -> None:
    for user_id, statement in lines.items():
        for line in statement:
            values = msgspec.structs.asdict(line) | {"occurred_at": "now"}
            await add_row(connection, "gateway.ledger_lines", **values)
        last = max(statement, key=lambda line: line.line_number)
        await add_row(
            connection,
            "gateway.balances",
            user_id=user_id,
            line_number=last.line_number,
            available_credits=last.available_after_credits,
            reserved_credits=last.reserved_after_credits,
            receivable_credits=last.receivable_after_credits,
        )


async def _add_messages(connection: AsyncConnection, platform: PlatformHarness) -> None:
    """One message of each kind that was not sent by billing's handlers."""
    query = text("SELECT DISTINCT 'billing', subject FROM billing.outbox_messages")
    sent = {tuple(row) for row in await connection.execute(query)}
    subjects = {PaymentChanged: platform.payment, GrantCredits: platform.refunded, DeleteFiles: platform.late}
    for message in MESSAGES:
        for producer in message.producers:
            if (producer, message.subject) not in sent:
                await add_row(
                    connection,
                    f"{producer}.outbox_messages",
                    message_id=new_id(),
                    subject=message.subject,
                    stream=stream_of(message.subject),
                    payload=b"{}",
                    correlation_id=subjects.get(message, platform.running),
                )


async def _archive(connection: AsyncConnection, generation_id: UUID) -> None:
    """An order that ended long ago; its timeline is in the archive."""
    of_order = {"id": generation_id}
    await connection.execute(
        text("UPDATE gateway.generations SET updated_at = now() - interval '100 days' WHERE generation_id = :id"),
        of_order,
    )
    await connection.execute(
        text("""
            INSERT INTO gateway.activity (user_id, sequence, message_id, subject_id, event, name, data, occurred_at)
            SELECT user_id, number, gen_random_uuid(), generation_id, 'generation.updated', name,
                   jsonb_build_object('generation_id', generation_id, 'name', name, 'version', number),
                   now() - interval '100 days'
            FROM gateway.generations
            CROSS JOIN unnest(ARRAY['queued', 'running', 'completed']) WITH ORDINALITY AS step (name, number)
            WHERE generation_id = :id
        """),
        of_order,
    )
    archive = text("SELECT orders FROM gateway.archive_timelines(90, 100, '00000000-0000-0000-0000-000000000000')")
    assert await connection.scalar(archive) == 1
    await connection.execute(
        text("UPDATE storage.assets SET stored_at = now() - interval '100 days' WHERE generation_id = :id"), of_order
    )
    await connection.execute(text("DELETE FROM storage.verifications WHERE generation_id = :id"), of_order)


def name_of(subject: str) -> str:
    """Under which name SQL finds the first message on ``subject``."""
    return subject.replace(".", "_").replace("-", "_")


async def settle_messages(connection: AsyncConnection) -> None:
    """Everything in an outbox was published, and has reached its consumers and the journal."""
    for service in SERVICES:
        await connection.execute(
            text(f"UPDATE {service}.outbox_messages SET published_at = now(), published_sequence = 1")
        )
        await connection.execute(
            text(
                f"""
                INSERT INTO auditor.journal (message_id, subject, stream, producer, correlation_id, causation_id,
                                             traceparent, occurred_at, payload)
                SELECT message_id, subject, stream, '{service}', correlation_id, causation_id, traceparent, occurred_at,
                       convert_from(payload, 'UTF8')::jsonb
                FROM {service}.outbox_messages ON CONFLICT DO NOTHING
                """
            )
        )
        await connection.execute(
            text(
                f"""
                INSERT INTO storage.verifications
                    (message_id, subject, generation_id, user_id, payload, asked_at, answered_at)
                SELECT message_id, subject, correlation_id, gen_random_uuid(), payload, now() - interval '3 days', now()
                FROM {service}.outbox_messages
                WHERE subject = ANY(CAST(:subjects AS text[])) ON CONFLICT DO NOTHING
                """
            ),
            {"subjects": [message.subject for message in consumed_by("storage") if message is not DeleteFiles]},
        )
    await connection.execute(
        text(
            """
            UPDATE storage.deletions AS d SET message_id = o.message_id FROM gateway.outbox_messages AS o
            WHERE o.subject = :subject AND o.correlation_id = d.generation_id
            """
        ),
        {"subject": DeleteFiles.subject},
    )
    for consumer in SERVICES:
        await _receive(connection, consumer)


async def _receive(connection: AsyncConnection, consumer: Service) -> None:
    """``consumer`` has a position in each stream that it reads, and its inbox the messages that leave a row there."""
    for stream in {stream_of(message.subject) for message in consumed_by(consumer)}:
        names = {"consumer": durable_name(consumer, stream), "stream": stream}
        await connection.execute(
            text(
                f"""
                INSERT INTO {consumer}.relay_positions
                    (holder, stream, checkpoint_id, sequence, message_id, recorded_at, verified_at)
                VALUES (:consumer, :stream, gen_random_uuid(), 1, gen_random_uuid(), now() - interval '2 hours', now())
                """
            ),
            names,
        )
        for producer in SERVICES:
            await connection.execute(
                text(
                    f"""
                    INSERT INTO {consumer}.inbox_messages (consumer, message_id, message_day)
                    SELECT :consumer, message_id, created_at::date FROM {producer}.outbox_messages
                    WHERE stream = :stream AND subject = ANY(CAST(:subjects AS text[])) ON CONFLICT DO NOTHING
                    """
                ),
                names | {"subjects": [message.subject for message in INBOXES.get(consumer, ())]},
            )


async def add_row(connection: AsyncConnection, table: str, **values: Any) -> None:
    """Insert ``values``; other required columns are made up, so that new ones do not break the tests."""
    if table not in _COLUMNS:
        _COLUMNS[table] = await _columns_of(connection, table)
    written: dict[str, str] = {}
    for column, kind, needed in _COLUMNS[table]:
        if needed and column not in values:
            values[column] = "now" if kind.startswith("timestamp") else _MADE_UP[kind]()
        if column in values:
            written[column] = _placeholder(column, kind, values[column])
    assert set(values) <= set(written), f"{table} has no {set(values) - set(written)}"
    await connection.execute(
        text(f"INSERT INTO {table} ({', '.join(written)}) VALUES ({', '.join(written.values())})"), values
    )


async def _columns_of(connection: AsyncConnection, table: str) -> list[tuple[str, str, bool]]:
    """Name, type and whether a value is needed, of each column."""
    query = text(
        """
        SELECT column_name, data_type, is_nullable = 'NO' AND column_default IS NULL AND is_identity = 'NO'
                                       AND is_generated = 'NEVER'
        FROM information_schema.columns WHERE table_schema || '.' || table_name = :table
        """
    )
    return [(name, kind, needed) for name, kind, needed in await connection.execute(query, {"table": table})]


def _placeholder(column: str, kind: str, value: Any) -> str:
    if kind.startswith("timestamp"):
        return _TIMES[value]
    return f"CAST(CAST(:{column} AS text) AS jsonb)" if kind == "jsonb" else f":{column}"
