"""Multiplies the history of a real platform: every row of every order again and again, with all joins intact.

A copy has its own ids: each UUID becomes another one, the same wherever it stands, and a UUIDv7 keeps the order of its
time. Copies reach back over some days, ``DAYS`` unless told otherwise. Other users make the same orders in each copy.
One user, the heavy one, stays the same: the statement goes on from copy to copy. What a service would have dropped by
now (messages beyond their retention) is not copied. Seals are left out: a chain cannot be multiplied.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.message import SERVICES
from local_platform.console import say
from messaging.ids import first_id_at
from messaging.schema import INBOX_RETENTION_DAYS, OUTBOX_RETENTION_DAYS

DAYS: Final = 90
AT_ONCE: Final = 2
"""Tables that are copied at the same time."""
SAID_SECONDS: Final = 10.0
"""Of a table that takes longer it is said how far it is, so that somebody who waits sees what goes on."""
COPIES_AT_ONCE: Final = 1000
"""One statement makes so many: what it sorts fits into memory, and nothing of it is kept on the disk."""

TABLES: Final = (
    *(f"{service}.{table}" for service in SERVICES for table in ("outbox_messages", "inbox_messages")),
    *(
        f"gateway.{table}"
        for table in (
            *("activity", "activity_heads", "balances", "generation_requests", "generations", "ledger_lines"),
            *("payment_requests", "payments", "signups", "uploads"),
        )
    ),
    *(
        f"billing.{table}"
        for table in (
            *("users", "balance_ledger", "grants", "operator_grants", "reservations", "reservation_grants"),
            *("reservation_resolutions", "refusals", "verdicts", "clawbacks"),
        )
    ),
    *(f"generation.{table}" for table in ("video_generations", "attempts", "provider_callbacks", "user_queues")),
    *(f"storage.{table}" for table in ("verifications", "assets", "uploads", "previews", "deletions")),
    *(f"payments.{table}" for table in ("payment_transactions", "provider_events", "credit_movements", "refunds")),
    "payments.disputes",
    "auditor.journal",
)

_NAMED: Final = frozenset(
    (
        *("object_key", "poster_object_key", "idempotency_key", "provider_job_id", "provider_reference"),
        *("charge_reference", "event_id", "reference"),
    )
)
"""Text that names one thing: each copy has its own."""
CALLBACK_DAYS: Final = 7
"""`GENERATION_CALLBACK_RETENTION_SECONDS`, as it is set by default."""
_AGE_DAYS: Final[Mapping[str, int]] = {
    "outbox_messages": OUTBOX_RETENTION_DAYS,
    "inbox_messages": INBOX_RETENTION_DAYS,
    "provider_callbacks": CALLBACK_DAYS,
}
_DATED: Final[Mapping[str, str]] = {
    "outbox_messages": "created_at",
    "inbox_messages": "received_at",
    "provider_callbacks": "received_at",
    "journal": "received_at",
}
_HEAVY_TOTALS: Final = frozenset(
    ("available_credits", "reserved_credits", "receivable_credits", "line_number", "ready_count", "active_count")
)
_RUNNING_TOTALS: Final = frozenset(("available_after_credits", "reserved_after_credits", "receivable_after_credits"))

# STABLE, as the setting is: so the server writes it into the statement. What calls it takes three times as long.
FUNCTION: Final = """
    CREATE FUNCTION pg_temp.copied(id uuid, copy integer, milliseconds bigint) RETURNS uuid
    LANGUAGE sql STABLE AS $$
        SELECT CASE WHEN id IS NULL OR id = CAST(current_setting('bench.heavy') AS uuid) THEN id
            ELSE CAST(
                CASE WHEN uuid_extract_version(id) = 7 THEN lpad(to_hex(
                        ('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint - milliseconds), 12, '0')
                    ELSE translate(left(id::text, 13), '-', '') END
                || substr(translate(id::text, '-', ''), 13, 8) || left(md5(id::text || copy), 12) AS uuid) END
    $$
"""


_NEWEST_BEGAN: Final = text("""
    SELECT min(newest.reserved_at) - interval '1 second' AS began_at, min(l.posting_id) - 1 AS posting_id
    FROM (SELECT * FROM billing.reservations ORDER BY generation_id DESC LIMIT :orders) AS newest
    JOIN billing.balance_ledger AS l USING (generation_id)
""")
_PUT_WATERMARK: Final = text("""
    INSERT INTO auditor.proof_watermark AS w (noted_at, posting_id, message_id)
    VALUES (:began_at, :posting_id, :message_id)
    ON CONFLICT (only_one) DO UPDATE SET noted_at = excluded.noted_at, posting_id = excluded.posting_id,
        message_id = excluded.message_id, anchor_posting_id = NULL, anchor_transfer_id = NULL
""")


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    kind: str


async def multiply(
    engine: AsyncEngine, copies: int, heavy: UUID, days: int = DAYS, journal_days: int | None = None
) -> None:
    """Add ``copies`` of everything, as superuser, past triggers and foreign keys, in the past ``days``.

    ``journal_days``: how far the journal reaches back, by default as far as everything.
    """
    step = timedelta(days=days) / max(copies, 1)
    kept = {**_AGE_DAYS, "journal": days + 1 if journal_days is None else min(journal_days, days)}
    waiting = list(reversed(TABLES))
    async with _copying(engine, heavy) as connection:
        await _add_days(connection, {name: min(age, days) for name, age in kept.items()})
        lines = await connection.scalar(
            text("SELECT line_number FROM billing.users WHERE user_id = :heavy"), {"heavy": heavy}
        )
        entries = await connection.scalar(
            text("SELECT coalesce(max(sequence), 0) FROM gateway.activity WHERE user_id = :heavy"), {"heavy": heavy}
        )

        last_posting = await connection.scalar(text("SELECT max(posting_id) FROM billing.balance_ledger"))
        # One moment for all tables: what one of them keeps, no other has dropped.
        now: datetime = (await connection.execute(text("SELECT now()"))).scalar_one()

        async def copy_tables() -> None:
            async with _copying(engine, heavy) as copying:
                while waiting:
                    table = waiting.pop()
                    said = began = time.perf_counter()
                    columns = await _columns(copying, table)
                    milliseconds = int(step.total_seconds() * 1000)
                    statement = _copy(table, columns, milliseconds, lines or 0, entries or 0, kept, now)
                    oldest = _oldest_copy(table, copies, step, kept)
                    await copying.exec_driver_sql(f"CREATE TEMPORARY TABLE base AS SELECT * FROM {table}")
                    for last in range(oldest, 0, -COPIES_AT_ONCE):
                        first = max(last - COPIES_AT_ONCE, 0) + 1
                        await copying.exec_driver_sql(statement, (first, last))
                        if (ended := time.perf_counter()) - said > SAID_SECONDS:
                            said = ended
                            say(f"  {table}: {1 - (first - 1) / oldest:.0%}, {ended - began:.0f} s")
                    await copying.exec_driver_sql("DROP TABLE pg_temp.base")

        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(copy_tables())
        for table in ("billing.users", "gateway.balances"):
            totals = [one.name for one in await _columns(connection, table) if one.name in _HEAVY_TOTALS]
            changes = ", ".join(f"{name} = {name} * {copies + 1}" for name in totals)
            await connection.exec_driver_sql(f"UPDATE {table} SET {changes} WHERE user_id = '{heavy}'")
        await connection.exec_driver_sql(
            f"UPDATE gateway.activity_heads SET sequence = sequence * {copies + 1} WHERE user_id = '{heavy}'"
        )
        # What was there before is the newest, and so are its postings.
        await connection.exec_driver_sql(
            f"UPDATE billing.balance_ledger SET posting_id = DEFAULT WHERE posting_id <= {last_posting or 0}"
        )
        await connection.exec_driver_sql(
            "TRUNCATE billing.ledger_seals, billing.ledger_tree, billing.tree_heads, gateway.ledger_heads,"
            " auditor.ledger_heads"
        )
        await connection.exec_driver_sql("VACUUM ANALYZE")


async def count_as_new(engine: AsyncEngine, orders: int) -> None:
    """Put the auditor's watermark back before the newest orders. The rest is proven, or will be by a pass."""
    async with engine.begin() as connection:
        newest = (await connection.execute(_NEWEST_BEGAN, {"orders": orders})).one()
        values = {**newest._mapping, "message_id": first_id_at(newest.began_at)}
        await connection.execute(_PUT_WATERMARK, values)


@contextlib.asynccontextmanager
async def _copying(engine: AsyncEngine, heavy: UUID) -> AsyncIterator[AsyncConnection]:
    """A session of its own: its settings and its function end with it."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("SET statement_timeout = 0"))
        await connection.execute(text("SET transaction_timeout = 0"))
        await connection.execute(text("SET session_replication_role = replica"))
        await connection.execute(text("SELECT set_config('bench.heavy', :heavy, false)"), {"heavy": str(heavy)})
        await connection.exec_driver_sql(FUNCTION)
        yield connection
        await connection.invalidate()


async def _add_days(connection: AsyncConnection, kept: Mapping[str, int]) -> None:
    """The partitions that a platform of this age would have."""
    for service in SERVICES:
        for table, bound in (
            ("outbox_messages", "day"),
            ("inbox_messages", "day"),
            *([("journal", "auditor.first_id_of(day)")] if service == "auditor" else []),
        ):
            name = f"{service}.{table}"
            rows = await connection.exec_driver_sql(
                f"SELECT to_char(day, 'YYYYMMDD'), {bound}::text, {bound.replace('day', '(day + 1)')}::text"
                f" FROM (SELECT current_date - n AS day FROM generate_series(1, {kept[table]}) AS n) AS days"
                f" WHERE to_regclass('{name}_' || to_char(day, 'YYYYMMDD')) IS NULL"
            )
            partitions: list[tuple[str, str, str]] = [tuple(row) for row in rows]
            for day, first, end in partitions:
                await connection.exec_driver_sql(
                    f"CREATE TABLE {name}_{day} PARTITION OF {name} FOR VALUES FROM ('{first}') TO ('{end}')"
                )


async def _columns(connection: AsyncConnection, table: str) -> list[_Column]:
    query = text("""
        SELECT column_name, data_type FROM information_schema.columns
        WHERE table_schema || '.' || table_name = :table AND is_identity = 'NO' AND is_generated = 'NEVER'
        ORDER BY ordinal_position
    """)
    return [_Column(*row) for row in await connection.execute(query, {"table": table})]


def _oldest_copy(table: str, copies: int, step: timedelta, kept: Mapping[str, int]) -> int:
    """The number of the last copy of which the table keeps anything."""
    name = table.partition(".")[2]
    if name not in _DATED:
        return copies
    # The rows themselves may be some hours old.
    return min(copies, int(timedelta(days=kept[name]) / step) + 1)


def _copy(
    table: str,
    columns: Sequence[_Column],
    milliseconds: int,
    heavy_lines: int,
    heavy_entries: int,
    kept: Mapping[str, int],
    now: datetime,
) -> str:
    name = table.partition(".")[2]
    values = ", ".join(_value(table, one, milliseconds, heavy_lines, heavy_entries) for one in columns)
    names = ", ".join(one.name for one in columns)
    condition = "true"
    if name in _DATED:
        since = (now - timedelta(days=kept[name])).isoformat()
        condition = f"row.{_DATED[name]} - copy * interval '{milliseconds} ms' > timestamptz '{since}'"
    if any(one.name == "user_id" for one in columns) and name in ("users", "balances", "activity_heads", "user_queues"):
        condition += " AND row.user_id <> CAST(current_setting('bench.heavy') AS uuid)"
    return f"""
        INSERT INTO {table} ({names})
        SELECT {values} FROM generate_series($1::integer, $2::integer) AS copy CROSS JOIN pg_temp.base AS row
        WHERE {condition} ORDER BY copy DESC
    """


def _value(table: str, column: _Column, milliseconds: int, heavy_lines: int, heavy_entries: int) -> str:
    value = f"row.{column.name}"
    is_heavy = "row.user_id = CAST(current_setting('bench.heavy') AS uuid)"
    if column.kind == "uuid":
        return f"pg_temp.copied({value}, copy, copy * {milliseconds}::bigint)"
    if column.kind.startswith("timestamp"):
        return f"{value} - copy * interval '{milliseconds} ms'"
    if column.name == "message_day":
        # That of the id, which is the partition.
        copied = f"pg_temp.copied(row.message_id, copy, copy * {milliseconds}::bigint)"
        day = f"(uuid_extract_timestamp({copied}) AT TIME ZONE 'UTC')::date"
        return f"CASE uuid_extract_version(row.message_id) WHEN 7 THEN {day} ELSE {value} END"
    if column.kind == "text" and column.name in _NAMED:
        return f"CASE {value} WHEN '' THEN '' ELSE {value} || '~' || copy END"
    if table in ("billing.balance_ledger", "gateway.ledger_lines") and column.name == "line_number":
        return f"CASE WHEN {is_heavy} THEN {value} + copy * {heavy_lines} ELSE {value} END"
    if table == "gateway.ledger_lines" and column.name in _RUNNING_TOTALS:
        final = column.name.replace("_after", "")
        return (
            f"CASE WHEN {is_heavy} THEN {value} + copy *"
            f" (SELECT b.{final} FROM gateway.balances AS b WHERE b.user_id = row.user_id) ELSE {value} END"
        )
    if table == "gateway.activity" and column.name == "data":
        own_id = f"to_jsonb(pg_temp.copied(row.subject_id, copy, copy * {milliseconds}::bigint))"
        copied = f"jsonb_set({value}, '{{generation_id}}', {own_id})"
        return f"CASE WHEN {value} ? 'generation_id' THEN {copied} ELSE {value} END"
    if table == "gateway.activity" and column.name == "sequence":
        return f"CASE WHEN {is_heavy} THEN {value} + copy * {heavy_entries} ELSE {value} END"
    return value
