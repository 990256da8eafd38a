"""A small platform in which everything is right: rows of every service that agree with each other.

Credits move through billing's own handlers; the rows of the others are written as those services would have left them.
"""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from billing import handlers
from contracts.values import LedgerLine
from messaging.ids import new_id
from tests.billing.ledger import Ledger, completed, failed, order
from tests.support.databases import Database

SERVICES = ("gateway", "billing", "generation", "storage", "payments", "auditor")

_MADE_UP = {
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

# The schemas do not change within a test session.
_COLUMNS: dict[str, list[tuple[str, str, bool]]] = {}


@dataclass
class World:
    """The ids by which tests find things again; ``names`` are all of them, for SQL."""

    user: UUID = field(default_factory=new_id)
    other_user: UUID = field(default_factory=new_id)
    payment: UUID = field(default_factory=new_id)
    purchase: UUID = field(default_factory=new_id)
    bonus: UUID = field(default_factory=new_id)
    delivered: UUID = field(default_factory=new_id)
    delivered_for_less: UUID = field(default_factory=new_id)
    failed: UUID = field(default_factory=new_id)
    late: UUID = field(default_factory=new_id)
    running: UUID = field(default_factory=new_id)
    refused: UUID = field(default_factory=new_id)
    asset: UUID = field(default_factory=new_id)

    @property
    def names(self) -> dict[str, str]:
        return {name: str(value) for name, value in vars(self).items()}


async def build_world(database: Database) -> World:
    """Make it, at rest: every message published and recorded."""
    world = World()
    lines = await _move_credits(database, world)
    async with database.superuser_engine().begin() as connection:
        await _add_generations(connection, world)
        await _add_payment(connection, world)
        await _add_views(connection, world, lines)
        await settle_messages(connection)
    return world


async def _move_credits(database: Database, world: World) -> dict[UUID, list[LedgerLine]]:
    ledger = Ledger(database.engine("billing"))
    bought = {"payment_id": world.payment, "actor": "payments"}
    await ledger.grant(world.user, 100, "purchase", grant_id=world.purchase, **bought)
    await ledger.grant(world.user, 10, "bonus", grant_id=world.bonus, **bought)
    await ledger.grant(world.other_user, 50)
    prices = {
        world.delivered: 30,
        world.delivered_for_less: 20,
        world.failed: 10,
        world.late: 12,
        world.running: 9,
        world.refused: 10_000,
    }
    for generation_id, price in prices.items():
        await ledger.handle(handlers.reserve, order(world.user, price, generation_id))
    await ledger.handle(
        handlers.resolve,
        completed(world.user, world.delivered, 30),
        completed(world.user, world.delivered_for_less, 15),
        failed(world.user, world.failed),
        failed(world.user, world.late),
        completed(world.user, world.late, 0, late=True),
    )
    return ledger.lines


async def _add_generations(connection: AsyncConnection, world: World) -> None:
    for generation_id, price, status, late in (
        (world.delivered, 30, "completed", False),
        (world.delivered_for_less, 20, "completed", False),
        (world.failed, 10, "failed", False),
        (world.late, 12, "completed", True),
        (world.running, 9, "running", False),
    ):
        ended = status != "running"
        asset_id = (world.asset if generation_id == world.delivered else uuid4()) if status == "completed" else None
        await add_row(
            connection,
            "generation.video_generations",
            generation_id=generation_id,
            user_id=world.user,
            price_credits=price,
            kind="video",
            lane="standard",
            status=status,
            late=late,
            asset_id=asset_id,
            finished_at="now" if ended else None,
            deadline_at="now" if ended else "in an hour",
        )
        await add_row(
            connection,
            "generation.attempts",
            generation_id=generation_id,
            attempt_number=1,
            status="running" if not ended else "failed" if status == "failed" else "succeeded",
            ended_at="now" if ended else None,
        )
        if asset_id is not None:
            await add_row(
                connection,
                "storage.assets",
                asset_id=asset_id,
                generation_id=generation_id,
                user_id=world.user,
                role="output",
            )


async def _add_payment(connection: AsyncConnection, world: World) -> None:
    await add_row(
        connection,
        "payments.payment_transactions",
        payment_id=world.payment,
        user_id=world.user,
        provider="stripe",
        status="settled",
        version=3,
        price_cents=1000,
        currency="usd",
        credits=100,
        bonus_credits=10,
        settled_at="now",
    )
    for kind, movement_id, amount in (("purchase", world.purchase, 100), ("bonus", world.bonus, 10)):
        await add_row(
            connection,
            "payments.credit_movements",
            movement_id=movement_id,
            payment_id=world.payment,
            kind=kind,
            amount_credits=amount,
            posted_at="now",
        )


async def _add_views(connection: AsyncConnection, world: World, lines: dict[UUID, list[LedgerLine]]) -> None:
    shown = {
        world.delivered: "completed",
        world.delivered_for_less: "completed",
        world.failed: "failed",
        world.late: "completed",
        world.running: "running",
        world.refused: "refused",
    }
    for generation_id, status in shown.items():
        owned = {"generation_id": generation_id, "user_id": world.user}
        await add_row(connection, "gateway.generation_requests", **owned)
        await add_row(connection, "gateway.generations", **owned, status=status, kind="video", lane="standard")
    await add_row(
        connection, "gateway.payments", payment_id=world.payment, user_id=world.user, status="settled", version=3
    )
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


async def damage(database: Database, world: World, *statements: str) -> dict[str, str]:
    """Run ``statements`` as superuser, past all triggers; returns the names by which they, and tests, know things."""
    async with database.superuser_engine().begin() as connection:
        return await damage_within(connection, world, *statements)


async def damage_within(connection: AsyncConnection, world: World, *statements: str) -> dict[str, str]:
    """The same in a transaction of the caller's, who may roll it back."""
    first_transfer = text("SELECT transfer_id FROM billing.balance_ledger WHERE posting_id = 1")
    first_message = text("SELECT message_id FROM billing.outbox_messages ORDER BY 1 LIMIT 1")
    names = world.names
    names["transfer"] = str(await connection.scalar(first_transfer))
    names["message"] = str(await connection.scalar(first_message))
    await connection.execute(text("SET LOCAL session_replication_role = replica"))
    for statement in statements:
        await connection.exec_driver_sql(statement.format(**names))
    return names


async def settle_messages(connection: AsyncConnection) -> None:
    """Everything in an outbox was published and has reached the journal."""
    for service in SERVICES:
        await connection.execute(text(f"UPDATE {service}.outbox_messages SET published_at = now()"))
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


async def add_row(connection: AsyncConnection, table: str, **values: Any) -> None:
    """Insert ``values``; what the table insists on besides is made up, so that new columns do not break the tests."""
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
        return {"now": "now()", "in an hour": "now() + interval '1 hour'", None: "NULL"}[value]
    return f"CAST(CAST(:{column} AS text) AS jsonb)" if kind == "jsonb" else f":{column}"
