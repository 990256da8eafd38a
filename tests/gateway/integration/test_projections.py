"""The read models: messages in any order, and repeated, leave the same rows."""

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from contracts.billing import CreditsCaptured, CreditsGranted, CreditsReleased, CreditsReserved
from contracts.generation import (
    AttemptFailed,
    GenerationCompleted,
    GenerationDispatched,
    GenerationFailed,
    GenerationQueued,
    GenerationStarted,
    OutputReady,
)
from contracts.message import Message
from contracts.payments import Payment, PaymentChanged, PaymentStatus
from contracts.registry import consumed_by
from contracts.values import GenerationOrder, LedgerLine, MovementReason, ReportedOutput
from gateway import repository
from gateway.consumers import subscriptions
from gateway.handlers import REACTIONS, Projector
from gateway.tables import activity, balances, generation_requests, generations, ledger_lines, payments
from messaging.ids import new_id
from messaging.received import Received
from messaging.transaction import Transactions
from tests.gateway.harness import asset_of, order_of
from tests.support.databases import Database

BEGAN = datetime(2026, 11, 1, tzinfo=UTC)
MOST_OPEN = 100


@dataclass
class Story:
    """The messages about one user, in order: a late delivery, a plain one, and a payment."""

    user_id: UUID = field(default_factory=new_id)
    messages: list[Received[Any]] = field(default_factory=list)
    lines: list[LedgerLine] = field(default_factory=list)

    def add(self, message: Message) -> None:
        at = BEGAN + timedelta(seconds=len(self.messages))
        self.messages.append(Received(new_id(), message.subject, message, self.user_id, None, at, None, 1))

    def line(self, reason: MovementReason, available: int, reserved: int, generation_id: UUID | None) -> LedgerLine:
        before = self.lines[-1] if self.lines else None
        line = LedgerLine(
            line_number=len(self.lines) + 1,
            transfer_id=new_id(),
            user_id=self.user_id,
            reason=reason,
            available_delta_credits=available,
            reserved_delta_credits=reserved,
            available_after_credits=(before.available_after_credits if before else 0) + available,
            reserved_after_credits=(before.reserved_after_credits if before else 0) + reserved,
            generation_id=generation_id,
            occurred_at=BEGAN,
        )
        self.lines.append(line)
        return line

    def order(self) -> GenerationOrder:
        return order_of(self.user_id, BEGAN)


def events_of(story: Story, order: GenerationOrder, late: bool) -> None:
    """Reserved, attempted twice, stored, and delivered; if ``late``, after the order had failed."""
    of: dict[str, Any] = {"generation_id": order.generation_id, "user_id": story.user_id}
    billed: dict[str, Any] = {**of, "reservation_id": new_id()}
    reserve = story.line("reserve", -10, 10, order.generation_id)
    story.add(CreditsReserved(reservation_id=billed["reservation_id"], order=order, line=reserve))
    story.add(GenerationQueued(**of, version=1, lane="free"))
    for number, version in ((1, 2), (2, 5)):
        attempt: dict[str, Any] = {**of, "attempt_id": new_id(), "attempt_number": number}
        job: dict[str, Any] = {"endpoint_id": "e", "provider_job_id": f"j{number}", "submitted_at": BEGAN}
        story.add(GenerationDispatched(**attempt, **job, version=version))
        story.add(GenerationStarted(**attempt, version=version + 1, started_at=BEGAN))
        if number == 1:
            story.add(AttemptFailed(**attempt, version=4, code="execution_failed", detail="d", retry_at=BEGAN))
    claim = ReportedOutput(attempt_id=new_id(), attempt_number=2, object_key="k")
    sizes: dict[str, Any] = {"expected_width_pixels": 1, "expected_height_pixels": 1, "max_size_bytes": 1}
    story.add(OutputReady(**of, **sizes, version=7, kind="image", claim=claim))
    if late:
        failure: dict[str, Any] = {"code": "deadline_exceeded", "detail": "too late", "failed_at": BEGAN}
        story.add(GenerationFailed(**of, **failure, version=8))
        released = story.line("release", 10, -10, order.generation_id)
        story.add(CreditsReleased(**billed, released_credits=10, lines=(released,)))
    asset = asset_of(order.generation_id, story.user_id)
    story.add(asset)
    completion: dict[str, Any] = {"asset_id": asset.asset_id, "media": asset.media, "completed_at": BEGAN}
    capture: dict[str, Any] = {"attempt_number": 2, "capture_credits": 0 if late else 10, "late": late}
    story.add(GenerationCompleted(**of, **completion, **capture, version=9))
    if not late:
        line = story.line("capture", 0, -10, order.generation_id)
        story.add(CreditsCaptured(**billed, captured_credits=10, released_credits=0, lines=(line,)))


def payment_of(story: Story) -> None:
    payment_id = new_id()
    statuses: tuple[PaymentStatus, ...] = ("created", "pending", "settled")
    for version, status in enumerate(statuses, start=1):
        payment = Payment(
            payment_id=payment_id,
            user_id=story.user_id,
            version=version,
            provider="stripe",
            status=status,
            pack_id="starter",
            price_cents=1000,
            currency="usd",
            credits=100,
            bonus_credits=0,
            checkout_url="https://pay.example",
            created_at=BEGAN,
            expires_at=BEGAN,
        )
        story.add(PaymentChanged(payment=payment, reason=status, changed_at=BEGAN))


class ProjectorHarness:
    """The projector over a database, without a broker."""

    def __init__(self, database: Database) -> None:
        self.transactions = Transactions(database.engine("gateway"), producer="gateway")
        self.notified: list[set[UUID]] = []
        self.projector = Projector(self.notified.append)

    async def receive(self, messages: Sequence[Received[Any]]) -> set[UUID]:
        """Project a batch; returns the ids of the messages that were deferred."""
        async with self.transactions.begin() as tx:
            await self.projector.project(tx, messages)
            return set(tx.deferred)

    async def begin(self, *orders: GenerationOrder) -> None:
        async with self.transactions.begin() as tx:
            for order in orders:
                assert await repository.add_order(tx, [order], str(order.generation_id), b"", MOST_OPEN)

    async def rows(self, user_id: UUID) -> dict[str, list[dict[str, Any]]]:
        """The rows of the read models, without the columns that depend on the order of messages."""
        found = {}
        async with self.transactions.begin() as tx:
            for table in (generation_requests, generations, balances, ledger_lines, payments, activity):
                statement = sa.select(table).where(table.c.user_id == user_id)
                kept = [c for c in table.c if c.name not in ("updated_at", "created_at", "sequence")]
                rows = await tx.connection.execute(statement.with_only_columns(*kept).order_by(*table.primary_key))
                found[table.name] = [dict(row._mapping) for row in rows]
        # A balance that is older than a recorded one is left out.
        found["activity"] = sorted(
            (row for row in found["activity"] if row["subject_id"] is not None), key=lambda row: row["message_id"]
        )
        return found

    async def recorded_balances(self, user_id: UUID) -> list[int]:
        """The line numbers of the balances in the user's history, in order."""
        statement = (
            sa.select(activity.c.data["line_number"].as_integer())
            .where(activity.c.user_id == user_id, activity.c.event == "balance.updated")
            .order_by(activity.c.sequence)
        )
        async with self.transactions.begin() as tx:
            return list((await tx.connection.execute(statement)).scalars())

    async def clear(self, database: Database) -> None:
        async with database.superuser_engine().begin() as connection:
            for table in ("generation_requests", "generations", "balances", "ledger_lines", "payments", "activity"):
                await connection.execute(sa.text(f"TRUNCATE gateway.{table}"))


@pytest.fixture
async def database(make_database: Callable[..., Awaitable[Database]]) -> Database:
    return await make_database("gateway")


async def test_messages_in_any_order_and_repeated_leave_the_same_rows(database: Database) -> None:
    projector, story = ProjectorHarness(database), Story()
    orders = [story.order(), story.order()]
    grant = story.line("goodwill", 100, 0, None)
    story.add(CreditsGranted(grant_id=new_id(), user_id=story.user_id, amount_credits=100, lines=(grant,)))
    events_of(story, orders[0], late=False)
    events_of(story, orders[1], late=True)
    payment_of(story)
    await projector.begin(*orders)
    assert await projector.receive(story.messages) == set()
    await projector.receive(story.messages)
    assert await projector.recorded_balances(story.user_id) == [5]
    expected = await projector.rows(story.user_id)
    plain, late = (next(r for r in expected["generations"] if r["generation_id"] == o.generation_id) for o in orders)
    assert (plain["status"], plain["captured_credits"], plain["attempt_number"]) == ("completed", 10, 2)
    assert (late["status"], late["late"], late["failure_code"], late["released_credits"]) == (
        "completed",
        True,
        None,
        10,
    )
    assert (expected["balances"][0]["available_credits"], expected["balances"][0]["line_number"]) == (90, 5)
    assert expected["payments"][0]["status"] == "settled"
    assert [row["verdict"] for row in expected["generation_requests"]] == ["reserved", "reserved"]
    random.seed(4)
    shuffled = random.sample(story.messages, len(story.messages))
    for order in (story.messages[::-1], shuffled, shuffled[::-1]):
        await projector.clear(database)
        await projector.begin(*orders)
        early = [message for message in order if await projector.receive([message])]
        await projector.receive(early)
        await projector.receive(random.sample(story.messages, len(story.messages)))
        assert await projector.rows(story.user_id) == expected
        recorded = await projector.recorded_balances(story.user_id)
        assert (recorded, recorded[-1]) == (sorted(set(recorded)), 5)


async def test_a_failure_that_arrives_first_still_gets_its_attempt_number(database: Database) -> None:
    projector, story = ProjectorHarness(database), Story()
    order = story.order()
    of: dict[str, Any] = {"generation_id": order.generation_id, "user_id": story.user_id}
    story.add(GenerationFailed(**of, version=3, code="execution_failed", detail="d", failed_at=BEGAN))
    started: dict[str, Any] = {"attempt_id": new_id(), "attempt_number": 3, "started_at": BEGAN}
    story.add(GenerationStarted(**of, **started, version=2))
    await projector.begin(order)
    await projector.receive(story.messages)
    row = (await projector.rows(story.user_id))["generations"][0]
    assert (row["status"], row["version"], row["attempt_number"], row["failure_code"]) == (
        "failed",
        3,
        3,
        "execution_failed",
    )


async def test_a_late_file_does_not_hide_that_the_order_failed(database: Database) -> None:
    """Storage may reject the file, and then no further message comes."""
    projector, story = ProjectorHarness(database), Story()
    order = story.order()
    of: dict[str, Any] = {"generation_id": order.generation_id, "user_id": story.user_id}
    story.add(GenerationFailed(**of, version=2, code="execution_failed", detail="d", failed_at=BEGAN))
    claim = ReportedOutput(attempt_id=new_id(), attempt_number=1, object_key="k")
    sizes: dict[str, Any] = {"expected_width_pixels": 1, "expected_height_pixels": 1, "max_size_bytes": 1}
    story.add(OutputReady(**of, **sizes, version=3, kind="image", claim=claim, late=True))
    await projector.begin(order)
    await projector.receive(story.messages)
    rows = await projector.rows(story.user_id)
    row = rows["generations"][0]
    assert (row["status"], row["failure_code"], row["failure_detail"]) == ("failed", "execution_failed", "d")
    assert [entry["name"] for entry in rows["activity"]] == ["failed", "late_output_ready"]
    async with projector.transactions.begin() as tx:
        assert await repository.add_order(tx, [story.order()], "next", b"", most_open=1)


async def test_completed_is_not_shown_before_its_file_is_known(database: Database) -> None:
    projector, story = ProjectorHarness(database), Story()
    order = story.order()
    events_of(story, order, late=False)
    await projector.begin(order)
    stored = next(m for m in story.messages if m.subject.startswith("storage."))
    completed = next(m for m in story.messages if isinstance(m.payload, GenerationCompleted))
    assert await projector.receive([completed]) == {completed.message_id}
    assert (await projector.rows(story.user_id))["generations"][0]["status"] == "requested"
    assert await projector.receive([stored]) == set()
    assert await projector.receive([completed]) == set()
    assert (await projector.rows(story.user_id))["generations"][0]["status"] == "completed"


async def test_a_mixed_batch_keeps_its_order_in_the_history(database: Database) -> None:
    projector, story = ProjectorHarness(database), Story()
    order = story.order()
    events_of(story, order, late=False)
    messages = [m for m in story.messages if m.subject.startswith("generation.")][:-1]
    await projector.begin(order)
    await projector.receive(messages)
    async with projector.transactions.begin() as tx:
        rows = await tx.connection.execute(sa.select(activity).order_by(activity.c.sequence))
        assert [row.message_id for row in rows] == [message.message_id for message in messages]
    assert projector.notified == [{story.user_id}]


def test_every_consumed_message_has_a_reaction() -> None:
    assert set(REACTIONS) == set(consumed_by("gateway"))
    assert len({subscription.handler for subscription in subscriptions(lambda _: None)}) == 1
