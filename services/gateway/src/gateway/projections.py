"""The SQL of the read models: set-based, forward only, and each user's history numbered without gaps.

Statements are built once and given lists of rows as parameters: building one costs as much as executing it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.billing import LedgerHeadPublished, RefusalCode
from contracts.payments import Payment, PaymentRefused
from contracts.values import LedgerLine
from gateway.events import EventName, FailureCode
from gateway.records import StoredFile, StoredPreviews
from gateway.statuses import GenerationStatus, status_of_refusal
from gateway.tables import (
    generations,
    ledger_heads,
    payment_requests,
    payments,
    running_cancellations,
)
from service_runtime.statements import Statement


@dataclass(frozen=True, slots=True)
class Verdict:
    """Billing's answer to an order."""

    generation_id: UUID
    verdict: Literal["reserved"] | RefusalCode
    required_credits: int | None = None
    available_credits: int | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """A new status of a generation, complete: of two transitions the one with the higher version counts alone."""

    version: int
    status: GenerationStatus
    attempt_number: int | None = None
    late: bool = False
    completed_at: datetime | None = None
    failure_code: FailureCode | None = None
    failure_detail: str | None = None


@dataclass(slots=True)
class GenerationChange:
    """What a batch of messages says about one generation. The facts do not depend on the order of messages."""

    generation_id: UUID
    transition: Transition | None = None
    """The newest one."""
    attempt_number: int | None = None
    """The highest one."""
    charged_credits: int | None = None
    captured_credits: int | None = None
    released_credits: int | None = None
    file: StoredFile | None = None
    previews: StoredPreviews | None = None

    def add(self, transition: Transition) -> None:
        """Take one more transition into account."""
        if self.transition is None or self.transition.version < transition.version:
            self.transition = transition
        if transition.attempt_number is not None:
            self.attempt_number = max(self.attempt_number or 0, transition.attempt_number)

    def new_values(self) -> dict[str, Any]:
        """What is new, by column."""
        values: dict[str, Any] = {
            "generation_id": self.generation_id,
            "attempt_number": self.attempt_number,
            "charged_credits": self.charged_credits,
            "captured_credits": self.captured_credits,
            "released_credits": self.released_credits,
            "previews": self.previews,
        }
        if (transition := self.transition) is not None:
            values |= {name: getattr(transition, name) for name in _TRANSITION}
        if (file := self.file) is not None:
            values |= {name: getattr(file, name) for name in (*_FILE, "media")}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class RunningCancel:
    """A generation that was cancelled while a worker had it."""

    generation_id: UUID
    user_id: UUID
    cancelled_at: datetime


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One new entry of a user's history. ``event`` is the name under which it is streamed."""

    user_id: UUID
    message_id: UUID
    subject_id: UUID | None
    event: EventName
    name: str
    data: str
    """JSON."""
    occurred_at: datetime


_APPEND_HISTORY: Final = Statement("""
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

# Nothing reads from the lines, so they are written last, and the balances lock the users in the order of their ids.
_ADD_LINES: Final = Statement("""
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

_STATE: Final = ("status", "late", "completed_at", "failure_code", "failure_detail")
_TRANSITION: Final = ("version", *_STATE)
_FILE: Final = ("object_key", "poster_object_key", "size_bytes", "sha256")
_FACTS: Final = ("charged_credits", "captured_credits", "released_credits", *_FILE, "media", "previews")


_DIALECT: Final = dialect()  # type: ignore[no-untyped-call]
_UPDATED: Final = ("generation_id", *_TRANSITION, "attempt_number", *_FACTS)


def _update_generations_sql() -> str:
    """One statement for any number of generations. The keys are asked for as an array: that walks along the index."""
    types = {name: generations.c[name].type.compile(dialect=_DIALECT) for name in _UPDATED}
    record = ", ".join(f"{name} {sql_type}" for name, sql_type in types.items())
    state = (f"{name} = CASE WHEN g.version < n.version THEN n.{name} ELSE g.{name} END" for name in _STATE)
    facts = (f"{name} = coalesce(n.{name}, g.{name})" for name in _FACTS)
    grown = (f"{name} = greatest(g.{name}, n.{name})" for name in ("version", "attempt_number"))
    assignments = ", ".join(("updated_at = now()", *grown, *state, *facts))
    return f"""
        UPDATE gateway.generations AS g SET {assignments}
        FROM jsonb_to_recordset(CAST(:changes AS jsonb)) AS n({record})
        WHERE g.generation_id = ANY (CAST(:ids AS uuid[])) AND g.generation_id = n.generation_id
    """  # noqa: S608 - names of columns


_UPDATE_GENERATIONS: Final = Statement(_update_generations_sql())
_RECORD_VERDICTS: Final = Statement("""
    UPDATE gateway.generation_requests AS r
    SET verdict = v.verdict, required_credits = v.required_credits, available_credits = v.available_credits
    FROM unnest(CAST(:generation_ids AS uuid[]), CAST(:verdicts AS text[]), CAST(:required AS bigint[]),
                CAST(:available AS bigint[])) AS v (generation_id, verdict, required_credits, available_credits)
    WHERE r.generation_id = v.generation_id AND r.generation_id = ANY (CAST(:generation_ids AS uuid[]))
      AND r.verdict IS NULL
""")
_COUNT_MISSED_STARTS: Final = Statement("""
    INSERT INTO gateway.running_cancellations (generation_id, user_id, cancelled_at)
    SELECT generation_id, user_id, start_before_at FROM gateway.generations
    WHERE generation_id = ANY (CAST(:ids AS uuid[])) AND attempt_number IS NOT NULL AND start_before_at IS NOT NULL
    ORDER BY generation_id
    ON CONFLICT (generation_id) DO NOTHING
""")
_WITHOUT_FILE: Final = Statement("""
    SELECT generation_id FROM gateway.generations
    WHERE generation_id = ANY (CAST(:generation_ids AS uuid[])) AND object_key IS NULL
""")


async def update_generations(connection: AsyncConnection, changes: Iterable[GenerationChange]) -> None:
    """Move generations forward and record facts about them; a transition to an old version changes no status.

    Attempt numbers only grow, because a failure does not name its attempt and may arrive before the attempt's start.
    """
    rows = [change.new_values() for change in changes]
    if rows:
        values = {"ids": [row["generation_id"] for row in rows], "changes": msgspec.json.encode(rows).decode()}
        await _UPDATE_GENERATIONS.execute(connection, values)


async def list_without_file(connection: AsyncConnection, generation_ids: set[UUID]) -> set[UUID]:
    """Those of these generations of which no stored file is known."""
    rows = await _WITHOUT_FILE.fetch(connection, {"generation_ids": list(generation_ids)})
    return {row[0] for row in rows}


async def record_verdicts(connection: AsyncConnection, verdicts: Sequence[Verdict]) -> None:
    """Record billing's answers to orders; the first one stands."""
    if verdicts:
        # One for each generation. They are locked in one order.
        first = {verdict.generation_id: verdict for verdict in reversed(verdicts)}
        ordered = sorted(first.values(), key=lambda one: one.generation_id)
        values = {
            "generation_ids": [one.generation_id for one in ordered],
            "verdicts": [one.verdict for one in ordered],
            "required": [one.required_credits for one in ordered],
            "available": [one.available_credits for one in ordered],
        }
        await _RECORD_VERDICTS.execute(connection, values)


async def refuse_generations(connection: AsyncConnection, refusals: Mapping[UUID, RefusalCode]) -> None:
    """End the orders that could not be funded, and those that were withdrawn in time."""
    for generation_id, code in sorted(refusals.items()):
        status = status_of_refusal(code)
        failure_code = code if status == "refused" else None
        await connection.execute(
            sa.update(generations)
            .where(generations.c.generation_id == generation_id, generations.c.status == "requested")
            .values(status=status, failure_code=failure_code, updated_at=sa.func.now())
        )


async def count_running_cancels(connection: AsyncConnection, cancels: Sequence[RunningCancel]) -> None:
    """Count these cancels against their users' allowances; a generation counts once, when it was first counted."""
    if cancels:
        rows = [asdict(cancel) for cancel in sorted(cancels, key=lambda one: one.generation_id)]
        fresh = insert(running_cancellations).on_conflict_do_nothing(index_elements=["generation_id"])
        await connection.execute(fresh, rows)


async def count_missed_starts(connection: AsyncConnection, generation_ids: Sequence[UUID]) -> None:
    """Count those of these orders that the provider had like cancels of running work: a worker may have been starting.

    They were given up because none had begun by the time that their users allowed.
    """
    if generation_ids:
        await _COUNT_MISSED_STARTS.execute(connection, {"ids": list(generation_ids)})


async def add_lines(connection: AsyncConnection, lines: Sequence[LedgerLine]) -> set[UUID]:
    """Add statement lines and let balances follow the highest line of each user; returns whose balance moved."""
    if not lines:
        return set()
    moved = await _ADD_LINES.fetch(connection, {"lines": msgspec.json.encode(lines).decode()})
    return {row[0] for row in moved}


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
    """Record that payments did not begin these purchases."""
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


async def add_ledger_heads(connection: AsyncConnection, heads: Sequence[LedgerHeadPublished]) -> None:
    """Keep published heads. One that is known stays as it is."""
    if heads:
        rows = [
            {
                "tree_size": head.tree_size,
                "root_hash": bytes.fromhex(head.root_hash),
                "published_at": head.published_at,
            }
            for head in sorted(heads, key=lambda one: one.tree_size)
        ]
        await connection.execute(insert(ledger_heads).on_conflict_do_nothing(), rows)


async def append_history(connection: AsyncConnection, entries: Sequence[HistoryEntry]) -> None:
    """Append to users' histories, in order.

    The heads are locked in the order of user ids, and stay locked until the commit: when a reader has seen number N,
    no number below N appears later.
    """
    columns = {f"{field.name}s": [getattr(entry, field.name) for entry in entries] for field in fields(HistoryEntry)}
    await _APPEND_HISTORY.execute(connection, columns)
