"""The SQL of the read models: set-based, under one lock for each user, their activity numbered without gaps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.payments import Payment, PaymentRefused
from contracts.values import GenerationOrder, LedgerLine
from gateway.reactions import Entry, Verdict
from gateway.tables import generations

GENERATION_COLUMNS: Final = {
    "version": "integer",
    "status": "text",
    "attempt_number": "integer",
    "failure_code": "text",
    "failure_detail": "text",
    "late": "boolean",
    "captured_credits": "bigint",
    "released_credits": "bigint",
    "object_key": "text",
    "poster_object_key": "text",
    "size_bytes": "bigint",
    "sha256": "text",
    "media": "jsonb",
    "started_at": "timestamptz",
    "completed_at": "timestamptz",
}
"""What messages change, with types. A cancel asked for here changes another column, so that neither undoes the other."""

_IDS: Final = sa.bindparam("ids", type_=sa.ARRAY(sa.Uuid))


@dataclass(frozen=True, slots=True)
class Activity:
    """One entry of a user's history, and the message that it comes from."""

    user_id: UUID
    message_id: UUID
    occurred_at: datetime
    entry: Entry


_OPEN_HEADS: Final = text("""
    INSERT INTO gateway.activity_heads (user_id)
    SELECT new.user_id FROM unnest(CAST(:ids AS uuid[])) AS new (user_id) ORDER BY new.user_id
    ON CONFLICT DO NOTHING
""")
_LOCK_HEADS: Final = text("""
    SELECT user_id, sequence FROM gateway.activity_heads
    WHERE user_id = ANY(:ids) ORDER BY user_id FOR UPDATE
""").bindparams(_IDS)
_FIND_RECORDED: Final = text("SELECT message_id FROM gateway.activity WHERE message_id = ANY(:ids)").bindparams(_IDS)
_FIND_GENERATIONS: Final = sa.select(
    generations.c.generation_id, *(generations.c[name] for name in GENERATION_COLUMNS)
).where(generations.c.generation_id == sa.any_(_IDS))

_ADD_ORDERS: Final = text("""
    INSERT INTO gateway.generations (
        generation_id, user_id, status, model_id, kind, parameters, price_credits, lane, requested_at, expires_at)
    SELECT generation_id, user_id, 'requested', model_id, kind, parameters, price_credits, lane, requested_at, expires_at
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        generation_id uuid, user_id uuid, model_id text, kind text, parameters jsonb, price_credits bigint, lane text,
        requested_at timestamptz, expires_at timestamptz)
    ON CONFLICT DO NOTHING
""")
_UPDATE_GENERATIONS: Final = text(
    f"""
    UPDATE gateway.generations AS g
    SET {", ".join(f"{name} = r.{name}" for name in GENERATION_COLUMNS)}, revision = g.revision + 1, updated_at = now()
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(generation_id uuid, {", ".join(f"{name} {kind}" for name, kind in GENERATION_COLUMNS.items())})
    WHERE g.generation_id = r.generation_id
    """  # noqa: S608 - the names are the constants above
)
_RECORD_VERDICTS: Final = text("""
    UPDATE gateway.generation_requests AS q
    SET verdict = r.said, required_credits = r.required_credits, available_credits = r.available_credits
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(generation_id uuid, said text, required_credits bigint, available_credits bigint)
    WHERE q.generation_id = r.generation_id AND q.verdict IS NULL
""")

_ADD_LINES: Final = text("""
    WITH lines AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
            user_id uuid, line_number bigint, transfer_id uuid, reason text,
            available_delta_credits bigint, reserved_delta_credits bigint, receivable_delta_credits bigint,
            available_after_credits bigint, reserved_after_credits bigint, receivable_after_credits bigint,
            generation_id uuid, payment_id uuid, note text, occurred_at timestamptz)
    ), added AS (
        INSERT INTO gateway.ledger_lines (
            user_id, line_number, transfer_id, reason,
            available_delta_credits, reserved_delta_credits, receivable_delta_credits,
            available_after_credits, reserved_after_credits, receivable_after_credits,
            generation_id, payment_id, note, occurred_at)
        SELECT * FROM lines
        ON CONFLICT DO NOTHING
        RETURNING user_id, reason, reserved_delta_credits
    ), settled AS (
        SELECT user_id, -sum(reserved_delta_credits) AS credits FROM added WHERE reason = 'capture' GROUP BY user_id
    ), latest AS (
        SELECT DISTINCT ON (user_id) * FROM lines ORDER BY user_id, line_number DESC
    )
    INSERT INTO gateway.balances AS b (
        user_id, line_number, available_credits, reserved_credits, receivable_credits, settled_credits)
    SELECT latest.user_id, line_number, available_after_credits, reserved_after_credits, receivable_after_credits,
           coalesce(settled.credits, 0)
    FROM latest LEFT JOIN settled USING (user_id)
    ORDER BY latest.user_id
    ON CONFLICT (user_id) DO UPDATE
    SET line_number = greatest(b.line_number, excluded.line_number),
        available_credits = CASE WHEN excluded.line_number > b.line_number
            THEN excluded.available_credits ELSE b.available_credits END,
        reserved_credits = CASE WHEN excluded.line_number > b.line_number
            THEN excluded.reserved_credits ELSE b.reserved_credits END,
        receivable_credits = CASE WHEN excluded.line_number > b.line_number
            THEN excluded.receivable_credits ELSE b.receivable_credits END,
        settled_credits = b.settled_credits + excluded.settled_credits,
        updated_at = now()
""")
# A user whose next line is known has an unbroken statement up to the first line that nothing follows.
_EXTEND_STATEMENTS: Final = text("""
    UPDATE gateway.balances AS b
    SET unbroken_line_number = (
        SELECT min(l.line_number) FROM gateway.ledger_lines AS l
        WHERE l.user_id = b.user_id AND l.line_number > b.unbroken_line_number AND NOT EXISTS (
            SELECT FROM gateway.ledger_lines AS n WHERE n.user_id = l.user_id AND n.line_number = l.line_number + 1))
    WHERE b.user_id = ANY(:ids) AND EXISTS (
        SELECT FROM gateway.ledger_lines AS n
        WHERE n.user_id = b.user_id AND n.line_number = b.unbroken_line_number + 1)
""").bindparams(_IDS)

_PUT_PAYMENTS: Final = text("""
    INSERT INTO gateway.payments AS p (
        payment_id, user_id, version, provider, status, pack_id, price_cents, currency, credits, bonus_credits,
        refunded_cents, checkout_url, detail, created_at, expires_at)
    SELECT payment_id, user_id, version, provider, status, pack_id, price_cents, currency, credits, bonus_credits,
           refunded_cents, checkout_url, detail, created_at, expires_at
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
        payment_id uuid, user_id uuid, version integer, provider text, status text, pack_id text, price_cents integer,
        currency text, credits integer, bonus_credits integer, refunded_cents integer, checkout_url text, detail text,
        created_at timestamptz, expires_at timestamptz)
    ORDER BY payment_id
    ON CONFLICT (payment_id) DO UPDATE
    SET version = excluded.version, status = excluded.status, refunded_cents = excluded.refunded_cents,
        checkout_url = excluded.checkout_url, detail = excluded.detail, expires_at = excluded.expires_at,
        updated_at = now()
    WHERE p.version < excluded.version
""")
_REFUSE_PAYMENTS: Final = text("""
    WITH refused AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(payment_id uuid, code text, detail text)
    ), recorded AS (
        UPDATE gateway.payment_requests AS q SET refusal_code = refused.code, refusal_detail = refused.detail
        FROM refused WHERE q.payment_id = refused.payment_id AND q.refusal_code IS NULL
    )
    UPDATE gateway.payments AS p SET status = 'refused', detail = refused.detail, updated_at = now()
    FROM refused WHERE p.payment_id = refused.payment_id AND p.status = 'created'
""")

_ADD_ACTIVITY: Final = text("""
    WITH entries AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
            user_id uuid, sequence bigint, message_id uuid, event text, subject_id uuid, name text, detail jsonb,
            occurred_at timestamptz)
    ), heads AS (
        UPDATE gateway.activity_heads AS h SET sequence = last.sequence
        FROM (SELECT user_id, max(sequence) AS sequence FROM entries GROUP BY user_id) AS last
        WHERE h.user_id = last.user_id
    )
    INSERT INTO gateway.activity (user_id, sequence, message_id, event, subject_id, name, detail, occurred_at)
    SELECT user_id, sequence, message_id, event, subject_id, name, detail, occurred_at FROM entries
""")


async def lock_histories(connection: AsyncConnection, user_ids: Iterable[UUID]) -> dict[UUID, int]:
    """Lock the histories of these users, in the order of their ids; returns the number of each one's last entry.

    Whoever changes a read model holds this lock of its owner until the commit. So two replicas never work on one user
    at a time, and a reader that has seen entry N can be sure that nothing below N appears later.
    """
    ids = sorted(set(user_ids))
    # FOR UPDATE on a missing row would lock nothing.
    await connection.execute(_OPEN_HEADS, {"ids": ids})
    return {row.user_id: row.sequence for row in await connection.execute(_LOCK_HEADS, {"ids": ids})}


async def find_recorded(connection: AsyncConnection, message_ids: Iterable[UUID]) -> set[UUID]:
    """Those of these messages that took effect before."""
    return set((await connection.execute(_FIND_RECORDED, {"ids": list(message_ids)})).scalars())


async def find_generations(connection: AsyncConnection, generation_ids: Iterable[UUID]) -> dict[UUID, dict[str, Any]]:
    """What messages can change of these generations, by id."""
    rows = await connection.execute(_FIND_GENERATIONS, {"ids": sorted(set(generation_ids))})
    return {row.generation_id: dict(row._mapping) for row in rows}


async def add_orders(connection: AsyncConnection, orders: Sequence[GenerationOrder]) -> None:
    """Generations that were not asked for here, or not in this database."""
    await connection.execute(_ADD_ORDERS, {"rows": _json(orders)})


async def update_generations(connection: AsyncConnection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write what messages changed."""
    await connection.execute(_UPDATE_GENERATIONS, {"rows": _json(list(rows))})


async def record_verdicts(connection: AsyncConnection, verdicts: Sequence[Verdict]) -> None:
    """Billing's word on requests; the first one stands."""
    await connection.execute(_RECORD_VERDICTS, {"rows": _json(verdicts)})


async def add_lines(connection: AsyncConnection, lines: Sequence[LedgerLine]) -> None:
    """Statement lines, and the balances that the highest of them leaves."""
    await connection.execute(_ADD_LINES, {"rows": _json(lines)})
    await connection.execute(_EXTEND_STATEMENTS, {"ids": sorted({line.user_id for line in lines})})


async def put_payments(connection: AsyncConnection, payments: Sequence[Payment]) -> None:
    """Payments as they are now; one with a version that was passed already changes nothing."""
    latest = {payment.payment_id: payment for payment in sorted(payments, key=lambda payment: payment.version)}
    await connection.execute(_PUT_PAYMENTS, {"rows": _json(list(latest.values()))})


async def refuse_payments(connection: AsyncConnection, refusals: Sequence[PaymentRefused]) -> None:
    """Payments that were not begun."""
    await connection.execute(_REFUSE_PAYMENTS, {"rows": _json(refusals)})


async def add_activity(connection: AsyncConnection, heads: dict[UUID, int], news: Iterable[Activity]) -> None:
    """Append to the histories that ``lock_histories`` locked."""
    rows = []
    for one in news:
        heads[one.user_id] += 1
        rows.append(
            {
                "user_id": one.user_id,
                "sequence": heads[one.user_id],
                "message_id": one.message_id,
                "event": one.entry.event,
                "subject_id": one.entry.subject_id,
                "name": one.entry.name,
                "detail": one.entry.detail,
                "occurred_at": one.occurred_at,
            }
        )
    await connection.execute(_ADD_ACTIVITY, {"rows": _json(rows)})


def _json(rows: Any) -> str:
    return msgspec.json.encode(rows).decode()
