"""Messages to send, handlers that leave one row for each effect, and looks into the database."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.billing import CreditsCaptured, CreditsRefused, GrantCredits
from contracts.payments import PaymentRefused
from messaging.ids import new_id
from messaging.received import Received
from messaging.transaction import Transaction, Transactions
from tests.support import eventually


def refused(number: int = 1) -> CreditsRefused:
    """An event of billing that the gateway reads; ``number`` tells one from another."""
    return CreditsRefused(
        generation_id=new_id(),
        user_id=new_id(),
        code="insufficient_credits",
        required_credits=number,
        available_credits=0,
        refused_at=datetime(2026, 11, 23, tzinfo=UTC),
    )


def captured(number: int = 1) -> CreditsCaptured:
    """Another event that billing sends and the gateway reads."""
    return CreditsCaptured(
        reservation_id=new_id(),
        generation_id=new_id(),
        user_id=new_id(),
        captured_credits=number,
        released_credits=0,
        lines=(),
    )


def payment_refused() -> PaymentRefused:
    """An event that payments sends and the gateway reads."""
    return PaymentRefused(payment_id=new_id(), user_id=new_id(), code="unknown_pack", detail="")


def grant(amount_credits: int = 1) -> GrantCredits:
    """A command of payments that billing takes."""
    return GrantCredits(
        grant_id=new_id(), user_id=new_id(), amount_credits=amount_credits, reason="purchase", actor="payments"
    )


async def publish_refused(transactions: Transactions, count: int, start: int = 0) -> list[UUID]:
    """Commit ``count`` events of billing in one transaction; returns their ids."""
    async with transactions.begin() as tx:
        return [tx.publish(refused(number), correlation_id=new_id()) for number in range(start, start + count)]


async def record(tx: Transaction, messages: Sequence[Received[Any]], schema: str = "gateway") -> None:
    """Leave one row for each message."""
    await tx.connection.execute(
        text(
            f"INSERT INTO {schema}.effects (message_id, subject, note)"
            " SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:subjects AS text[]), CAST(:notes AS text[]))"
        ),
        {
            "ids": [message.message_id for message in messages],
            "subjects": [message.subject for message in messages],
            "notes": [str(getattr(message.payload, "required_credits", "")) for message in messages],
        },
    )


async def record_in_billing(tx: Transaction, messages: Sequence[Received[Any]]) -> None:
    """The same, in billing's schema."""
    await record(tx, messages, "billing")


async def effects(engine: AsyncEngine, schema: str = "gateway") -> list[UUID]:
    """The message of each effect, in order."""
    async with engine.connect() as connection:
        rows = await connection.execute(text(f"SELECT message_id FROM {schema}.effects ORDER BY number"))
        return [row.message_id for row in rows]


async def notes(engine: AsyncEngine) -> list[int]:
    """The number of each effect, in order."""
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT note FROM gateway.effects ORDER BY number"))
        return [int(row.note) for row in rows]


async def expect_effects(
    engine: AsyncEngine, ids: Sequence[UUID], schema: str = "gateway", timeout: float = 15.0
) -> None:
    """Wait until every one of ``ids`` has taken effect, and hold that none did twice."""

    async def all_there() -> bool:
        return len(await effects(engine, schema)) >= len(ids)

    await eventually(all_there, timeout=timeout, what=f"{len(ids)} effects in {schema}")
    assert sorted(await effects(engine, schema)) == sorted(ids)


async def scalar(engine: AsyncEngine, query: str, **values: object) -> Any:
    """The one value that ``query`` gives."""
    async with engine.connect() as connection:
        return (await connection.execute(text(query), values)).scalar()


async def execute(engine: AsyncEngine, query: str, **values: object) -> None:
    """Run and commit ``query``."""
    async with engine.begin() as connection:
        await connection.execute(text(query), values)


async def unpublished(engine: AsyncEngine, schema: str = "billing") -> int:
    """How many committed messages wait for the broker."""
    return int(await scalar(engine, f"SELECT count(*) FROM {schema}.outbox_messages WHERE published_at IS NULL"))


async def expect_published(engine: AsyncEngine, schema: str = "billing") -> None:
    """Wait until the outbox is empty."""

    async def empty() -> bool:
        return await unpublished(engine, schema) == 0

    await eventually(empty, what="an empty outbox")
