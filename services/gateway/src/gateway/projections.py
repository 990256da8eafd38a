"""The SQL of the read models: set-based, forward only, and each user's activity numbered without gaps.

Statements are put together once and given lists of rows as parameters: building one costs as much as executing it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.payments import Payment, PaymentRefused
from contracts.values import LedgerLine
from gateway.tables import (
    activity,
    balances,
    generation_requests,
    generations,
    ledger_lines,
    payment_requests,
    payments,
)


@dataclass(frozen=True)
class Step:
    """A new state of a generation, complete: of two steps the one with the higher version says it all."""

    generation_id: UUID
    version: int
    status: str
    attempt_number: int | None = None
    late: bool = False
    completed_at: datetime | None = None
    failure_code: str | None = None
    failure_detail: str | None = None


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


_TAKE_NUMBERS: Final = sa.text("""
    INSERT INTO gateway.activity_heads AS h (user_id, sequence)
    SELECT * FROM unnest(:ids, :counts) AS taken (user_id, sequence) ORDER BY user_id
    ON CONFLICT (user_id) DO UPDATE SET sequence = h.sequence + excluded.sequence
    RETURNING user_id, sequence
""").bindparams(
    sa.bindparam("ids", type_=sa.ARRAY(sa.Uuid)),
    sa.bindparam("counts", type_=sa.ARRAY(sa.BigInteger)),
)


_newer = generations.c.version < sa.bindparam("step_version")
_ADVANCE_GENERATION: Final = (
    sa.update(generations)
    .where(generations.c.generation_id == sa.bindparam("step_generation_id"))
    .values(
        version=sa.func.greatest(generations.c.version, sa.bindparam("step_version")),
        attempt_number=sa.func.greatest(
            generations.c.attempt_number, sa.bindparam("step_attempt_number", type_=sa.Integer)
        ),
        updated_at=sa.func.now(),
        **{
            name: sa.case(
                (_newer, sa.bindparam(f"step_{name}", type_=generations.c[name].type)), else_=generations.c[name]
            )
            for name in ("status", "late", "completed_at", "failure_code", "failure_detail")
        },
    )
)
_RECORD_VERDICT: Final = (
    sa.update(generation_requests)
    .where(
        generation_requests.c.generation_id == sa.bindparam("of_generation"),
        generation_requests.c.verdict.is_(None),
    )
    .values(
        verdict=sa.bindparam("said"), required_credits=sa.bindparam("required"), available_credits=sa.bindparam("had")
    )
)
_ADD_LINES: Final = insert(ledger_lines).on_conflict_do_nothing()
_fresh_balance = insert(balances)
_FOLLOW_BALANCE: Final = _fresh_balance.on_conflict_do_update(
    index_elements=["user_id"],
    set_={
        **{
            name: _fresh_balance.excluded[name]
            for name in ("line_number", "available_credits", "reserved_credits", "receivable_credits")
        },
        "updated_at": sa.func.now(),
    },
    where=balances.c.line_number < _fresh_balance.excluded.line_number,
)
_ADD_ACTIVITY: Final = insert(activity).on_conflict_do_nothing(index_elements=["message_id"])


@cache
def _set_facts(names: tuple[str, ...]) -> sa.Update:
    values = {name: sa.bindparam(f"fact_{name}", type_=generations.c[name].type) for name in names}
    statement = sa.update(generations).where(generations.c.generation_id == sa.bindparam("of_generation"))
    return statement.values(updated_at=sa.func.now(), **values)


async def advance_generations(connection: AsyncConnection, steps: Sequence[Step]) -> None:
    """Move generations forward; a step whose version was passed already changes no state.

    Attempts only grow, whichever step is heard of first: a failure does not name its attempt.
    """
    if not steps:
        return
    ordered = sorted(steps, key=lambda one: (one.generation_id, one.version))
    rows = [{f"step_{name}": value for name, value in vars(step).items()} for step in ordered]
    await connection.execute(_ADVANCE_GENERATION, rows)


async def set_generation_facts(connection: AsyncConnection, facts: dict[UUID, dict[str, Any]]) -> None:
    """Facts that do not depend on the order of events: what was captured, what was stored."""
    for generation_id, values in sorted(facts.items()):
        row = {f"fact_{name}": value for name, value in values.items()}
        await connection.execute(_set_facts(tuple(values)), row | {"of_generation": generation_id})


async def list_without_file(connection: AsyncConnection, generation_ids: set[UUID]) -> set[UUID]:
    """Those of these generations of which no stored file is known."""
    statement = sa.select(generations.c.generation_id).where(
        generations.c.generation_id.in_(generation_ids), generations.c.object_key.is_(None)
    )
    return set((await connection.execute(statement)).scalars())


async def record_verdicts(connection: AsyncConnection, verdicts: Sequence[dict[str, Any]]) -> None:
    """Billing's word on requests; the first one stands."""
    if not verdicts:
        return
    await connection.execute(_RECORD_VERDICT, list(verdicts))


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
    if not lines:
        return
    columns = {column.name for column in ledger_lines.c}
    rows = [{k: v for k, v in msgspec.structs.asdict(line).items() if k in columns} for line in lines]
    await connection.execute(_ADD_LINES, rows)
    latest: dict[UUID, LedgerLine] = {}
    for line in lines:
        if line.user_id not in latest or latest[line.user_id].line_number < line.line_number:
            latest[line.user_id] = line
    balance_rows = [
        {
            "user_id": user_id,
            "line_number": line.line_number,
            "available_credits": line.available_after_credits,
            "reserved_credits": line.reserved_after_credits,
            "receivable_credits": line.receivable_after_credits,
        }
        for user_id, line in sorted(latest.items())
    ]
    await connection.execute(_FOLLOW_BALANCE, balance_rows)


async def advance_payments(connection: AsyncConnection, changed: Sequence[Payment]) -> None:
    """Move payments forward to higher versions."""
    for payment in sorted(changed, key=lambda one: (one.payment_id, one.version)):
        await _advance_payment(connection, payment)


async def _advance_payment(connection: AsyncConnection, payment: Payment) -> None:
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


async def refuse_payments(connection: AsyncConnection, refusals: Sequence[PaymentRefused]) -> None:
    """Payments did not begin these."""
    for refused in sorted(refusals, key=lambda one: one.payment_id):
        await connection.execute(
            sa.update(payment_requests)
            .where(payment_requests.c.payment_id == refused.payment_id, payment_requests.c.refusal_code.is_(None))
            .values(refusal_code=refused.code, refusal_detail=refused.detail)
        )
        await connection.execute(
            sa.update(payments)
            .where(payments.c.payment_id == refused.payment_id, payments.c.status == "created")
            .values(status="refused", detail=refused.detail, updated_at=sa.func.now())
        )


async def lock_histories(connection: AsyncConnection, counts: Mapping[UUID, int]) -> dict[UUID, int]:
    """Take so many numbers of each user's history; returns the first one of each.

    The heads are locked in the order of user ids and held until the commit: a reader that has seen number N can be
    sure that nothing below N appears later.
    """
    ordered = sorted(counts)
    taken = await connection.execute(_TAKE_NUMBERS, {"ids": ordered, "counts": [counts[one] for one in ordered]})
    return {row.user_id: row.sequence - counts[row.user_id] + 1 for row in taken}


async def add_activity(connection: AsyncConnection, entries: Sequence[Activity], following: dict[UUID, int]) -> None:
    """Append to users' histories, in order, from the numbers that ``lock_histories`` gave."""
    rows = []
    for entry in entries:
        rows.append({**vars(entry), "sequence": following[entry.user_id]})
        following[entry.user_id] += 1
    await connection.execute(_ADD_ACTIVITY, rows)
