"""The SQL of the read models: set-based, forward only, and each user's activity numbered without gaps.

Statements are put together once and given lists of rows as parameters: building one costs as much as executing it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.payments import Payment, PaymentRefused
from contracts.values import LedgerLine
from gateway.tables import (
    generation_requests,
    generations,
    payment_requests,
    payments,
)


@dataclass(frozen=True)
class Step:
    """A new state of a generation, complete: of two steps the one with the higher version says it all."""

    version: int
    status: str
    attempt_number: int | None = None
    late: bool = False
    completed_at: datetime | None = None
    failure_code: str | None = None
    failure_detail: str | None = None


@dataclass
class GenerationNews:
    """What a batch of messages says about one generation."""

    generation_id: UUID
    step: Step | None = None
    """The newest of them."""
    attempt_number: int | None = None
    """The highest of them."""
    facts: dict[str, Any] = field(default_factory=dict)
    """By column; independent of the order of events."""

    def add(self, step: Step) -> None:
        """One more step was heard of."""
        if self.step is None or self.step.version < step.version:
            self.step = step
        if step.attempt_number is not None:
            self.attempt_number = max(self.attempt_number or 0, step.attempt_number)

    def row(self) -> dict[str, Any]:
        """The parameters of the update; None is 'nothing new'."""
        said = {name: getattr(self.step, name, None) for name in ("version", *_STEP)}
        said |= {name: self.facts.get(name) for name in _FACTS}
        said |= {"generation_id": self.generation_id, "attempt_number": self.attempt_number}
        return {f"new_{name}": value for name, value in said.items()}


@dataclass(frozen=True)
class Activity:
    """One entry of a user's history. ``event`` is the name under which it is streamed."""

    user_id: UUID
    message_id: UUID
    subject_id: UUID | None
    event: str
    name: str
    data: str
    """JSON."""
    occurred_at: datetime


_APPEND_HISTORY: Final = sa.text("""
    WITH entries AS MATERIALIZED (
        SELECT e.*, row_number() OVER (PARTITION BY user_id ORDER BY place) AS number,
               count(*) OVER (PARTITION BY user_id) AS numbers
        FROM unnest(CAST(:user_ids AS uuid[]), CAST(:message_ids AS uuid[]), CAST(:subject_ids AS uuid[]),
                    CAST(:events AS text[]), CAST(:names AS text[]), CAST(:datas AS text[]),
                    CAST(:occurred_ats AS timestamptz[]))
            WITH ORDINALITY AS e (user_id, message_id, subject_id, event, name, data, occurred_at, place)
    ), heads AS (
        INSERT INTO gateway.activity_heads AS h (user_id, sequence)
        SELECT user_id, count(*) FROM entries GROUP BY user_id ORDER BY user_id
        ON CONFLICT (user_id) DO UPDATE SET sequence = h.sequence + excluded.sequence
        RETURNING user_id, sequence
    )
    INSERT INTO gateway.activity (user_id, sequence, message_id, subject_id, event, name, data, occurred_at)
    SELECT user_id, h.sequence - e.numbers + e.number, message_id, subject_id, event, name, CAST(data AS jsonb),
           occurred_at
    FROM entries AS e JOIN heads AS h USING (user_id)
    ON CONFLICT (message_id) DO NOTHING
""")

# The lines, which nothing reads from, are written last: so the balances lock the users, in the order of their ids.
_ADD_LINES: Final = sa.text("""
    WITH lines AS MATERIALIZED (
        SELECT * FROM jsonb_populate_recordset(CAST(NULL AS gateway.ledger_lines), CAST(:lines AS jsonb))
    ), added AS (
        INSERT INTO gateway.ledger_lines SELECT * FROM lines ON CONFLICT DO NOTHING
    )
    INSERT INTO gateway.balances AS b (user_id, line_number, available_credits, reserved_credits, receivable_credits)
    SELECT DISTINCT ON (user_id) user_id, line_number, available_after_credits, reserved_after_credits,
           receivable_after_credits
    FROM lines ORDER BY user_id, line_number DESC
    ON CONFLICT (user_id) DO UPDATE
    SET line_number = excluded.line_number, available_credits = excluded.available_credits,
        reserved_credits = excluded.reserved_credits, receivable_credits = excluded.receivable_credits,
        updated_at = now()
    WHERE b.line_number < excluded.line_number
    RETURNING user_id
""")

_STEP: Final = ("status", "late", "completed_at", "failure_code", "failure_detail")
_FACTS: Final = (
    "captured_credits",
    "released_credits",
    "object_key",
    "poster_object_key",
    "size_bytes",
    "sha256",
    "media",
)


def _told(name: str) -> sa.BindParameter[Any]:
    kind = JSONB(none_as_null=True) if name == "media" else generations.c[name].type
    return sa.bindparam(f"new_{name}", type_=kind)


_newer = generations.c.version < _told("version")
_UPDATE_GENERATION: Final = (
    sa.update(generations)
    .where(generations.c.generation_id == _told("generation_id"))
    .values(
        version=sa.func.greatest(generations.c.version, _told("version")),
        attempt_number=sa.func.greatest(generations.c.attempt_number, _told("attempt_number")),
        updated_at=sa.func.now(),
        **{name: sa.case((_newer, _told(name)), else_=generations.c[name]) for name in _STEP},
        **{name: sa.func.coalesce(_told(name), generations.c[name]) for name in _FACTS},
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


async def update_generations(connection: AsyncConnection, news: Iterable[GenerationNews]) -> None:
    """Move generations forward and note facts about them; a step whose version was passed already changes no state.

    Attempts only grow, whichever step is heard of first: a failure does not name its attempt.
    """
    rows = [one.row() for one in sorted(news, key=lambda one: one.generation_id)]
    if rows:
        await connection.execute(_UPDATE_GENERATION, rows)


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


async def add_lines(connection: AsyncConnection, lines: Sequence[LedgerLine]) -> set[UUID]:
    """Add statement lines and let balances follow the highest line of each user; returns whose balance moved."""
    if not lines:
        return set()
    moved = await connection.execute(_ADD_LINES, {"lines": msgspec.json.encode(lines).decode()})
    return set(moved.scalars())


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


async def append_history(connection: AsyncConnection, entries: Sequence[Activity]) -> None:
    """Append to users' histories, in order.

    The heads are locked in the order of user ids and held until the commit: a reader that has seen number N can be
    sure that nothing below N appears later.
    """
    columns = {f"{field.name}s": [getattr(entry, field.name) for entry in entries] for field in fields(Activity)}
    await connection.execute(_APPEND_HISTORY, columns)
