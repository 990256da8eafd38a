"""Messages to send and handlers that leave one row for each effect."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.billing import CreditsRefused, GrantCredits
from contracts.generation import CancelGeneration
from messaging.ids import new_id
from messaging.received import Received
from messaging.transaction import Transaction, Transactions


def refused(required_credits: int = 1) -> CreditsRefused:
    """An event of billing that the gateway reads; ``required_credits`` tells one from another."""
    return CreditsRefused(
        generation_id=new_id(),
        user_id=new_id(),
        code="insufficient_credits",
        required_credits=required_credits,
        available_credits=0,
        refused_at=datetime(2026, 11, 23, tzinfo=UTC),
    )


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


async def effects(engine: AsyncEngine, schema: str = "gateway") -> list[UUID]:
    """The message of each effect, in order."""
    async with engine.connect() as connection:
        rows = await connection.execute(text(f"SELECT message_id FROM {schema}.effects ORDER BY number"))
        return [row.message_id for row in rows]


async def scalar(engine: AsyncEngine, query: str, **values: object) -> Any:
    """The one value that ``query`` gives."""
    async with engine.connect() as connection:
        return (await connection.execute(text(query), values)).scalar()


__all__ = ["CancelGeneration", "CreditsRefused", "GrantCredits"]
