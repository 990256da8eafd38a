"""The SQL of the read models: set-based, forward only, and each user's activity numbered without gaps."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.payments import Payment
from contracts.values import LedgerLine
from gateway.tables import (
    activity,
    activity_heads,
    balances,
    generation_requests,
    generations,
    ledger_lines,
    payment_requests,
    payments,
)


@dataclass(frozen=True)
class Step:
    """One thing that happened to a generation: its new state, and what else is known now."""

    generation_id: UUID
    version: int
    status: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Activity:
    """One entry of a user's history. ``event`` is the name under which it is streamed."""

    user_id: UUID
    message_id: UUID
    subject_id: UUID | None
    event: str
    name: str
    data: dict[str, Any]
    occurred_at: datetime


async def advance_generations(connection: AsyncConnection, steps: Iterable[Step]) -> None:
    """Move generations forward; a step with a version that was passed already changes nothing."""
    for step in sorted(steps, key=lambda one: (one.generation_id, one.version)):
        await connection.execute(
            sa.update(generations)
            .where(generations.c.generation_id == step.generation_id, generations.c.version < step.version)
            .values(version=step.version, status=step.status, updated_at=sa.func.now(), **step.fields)
        )


async def set_generation_facts(connection: AsyncConnection, facts: dict[UUID, dict[str, Any]]) -> None:
    """Facts that do not depend on the order of events: what was captured, what was stored."""
    for generation_id, values in sorted(facts.items()):
        statement = sa.update(generations).where(generations.c.generation_id == generation_id)
        await connection.execute(statement.values(updated_at=sa.func.now(), **values))


async def record_verdicts(connection: AsyncConnection, verdicts: Sequence[dict[str, Any]]) -> None:
    """Billing's word on requests; the first one stands."""
    statement = (
        sa.update(generation_requests)
        .where(
            generation_requests.c.generation_id == sa.bindparam("of_generation"),
            generation_requests.c.verdict.is_(None),
        )
        .values(
            verdict=sa.bindparam("said"),
            required_credits=sa.bindparam("required"),
            available_credits=sa.bindparam("had"),
        )
    )
    await connection.execute(statement, list(verdicts))


async def refuse_generations(connection: AsyncConnection, refusals: dict[UUID, str]) -> None:
    """Orders that could not be funded end at once."""
    for generation_id, code in sorted(refusals.items()):
        await connection.execute(
            sa.update(generations)
            .where(generations.c.generation_id == generation_id, generations.c.status == "requested")
            .values(status="refused", failure_code=code, updated_at=sa.func.now())
        )


async def add_lines(connection: AsyncConnection, lines: Sequence[LedgerLine]) -> None:
    """Add statement lines and let balances follow the highest line of each user."""
    columns = {column.name for column in ledger_lines.c}
    rows = [{k: v for k, v in msgspec.structs.asdict(line).items() if k in columns} for line in lines]
    await connection.execute(insert(ledger_lines).values(rows).on_conflict_do_nothing())
    latest: dict[UUID, LedgerLine] = {}
    for line in lines:
        if line.user_id not in latest or latest[line.user_id].line_number < line.line_number:
            latest[line.user_id] = line
    statement = insert(balances).values(
        [
            {
                "user_id": user_id,
                "line_number": line.line_number,
                "available_credits": line.available_after_credits,
                "reserved_credits": line.reserved_after_credits,
                "receivable_credits": line.receivable_after_credits,
            }
            for user_id, line in sorted(latest.items())
        ]
    )
    fresh = statement.excluded
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["user_id"],
            set_={
                "line_number": fresh.line_number,
                "available_credits": fresh.available_credits,
                "reserved_credits": fresh.reserved_credits,
                "receivable_credits": fresh.receivable_credits,
                "updated_at": sa.func.now(),
            },
            where=balances.c.line_number < fresh.line_number,
        )
    )


async def advance_payment(connection: AsyncConnection, payment: Payment) -> None:
    """Move a payment forward to a higher version."""
    values = msgspec.structs.asdict(payment)
    statement = insert(payments).values(**values)
    fresh = {name: statement.excluded[name] for name in values if name not in ("payment_id", "user_id", "created_at")}
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["payment_id"],
            set_=fresh | {"updated_at": sa.func.now()},
            where=payments.c.version < statement.excluded.version,
        )
    )


async def refuse_payment(connection: AsyncConnection, payment_id: UUID, code: str, detail: str) -> None:
    """Payments did not begin this one."""
    await connection.execute(
        sa.update(payment_requests)
        .where(payment_requests.c.payment_id == payment_id, payment_requests.c.refusal_code.is_(None))
        .values(refusal_code=code, refusal_detail=detail)
    )
    await connection.execute(
        sa.update(payments)
        .where(payments.c.payment_id == payment_id, payments.c.status == "created")
        .values(status="refused", detail=detail, updated_at=sa.func.now())
    )


async def add_activity(connection: AsyncConnection, entries: Sequence[Activity]) -> set[UUID]:
    """Append to users' histories and return whose changed.

    Each user's numbers are taken under the row lock of their head, held until the commit: a reader that has seen
    number N can be sure that nothing below N appears later. Heads are locked in the order of user ids.
    """
    counts = Counter(entry.user_id for entry in entries)
    statement = insert(activity_heads).values(
        [{"user_id": user_id, "sequence": count} for user_id, count in sorted(counts.items())]
    )
    statement = statement.on_conflict_do_update(
        index_elements=["user_id"], set_={"sequence": activity_heads.c.sequence + statement.excluded.sequence}
    )
    taken = await connection.execute(statement.returning(activity_heads.c.user_id, activity_heads.c.sequence))
    following = {user_id: sequence - counts[user_id] + 1 for user_id, sequence in taken}
    rows = []
    for entry in entries:
        rows.append(
            {
                "user_id": entry.user_id,
                "sequence": following[entry.user_id],
                "message_id": entry.message_id,
                "subject_id": entry.subject_id,
                "event": entry.event,
                "name": entry.name,
                "data": entry.data,
                "occurred_at": entry.occurred_at,
            }
        )
        following[entry.user_id] += 1
    await connection.execute(insert(activity).values(rows).on_conflict_do_nothing(index_elements=["message_id"]))
    return set(counts)
