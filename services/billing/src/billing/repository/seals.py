"""The SQL that extends the hash chain and reads it back."""

from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from billing.tables import balance_ledger, ledger_seals
from contracts.ledger_chain import NO_SEALS, Head, Seal, SealedPosting
from service_runtime.statements import Statement

SEALING_LOCK: Final = 7_315_002_118
"""Key of the advisory lock under which one replica at a time extends the chain."""

POSTING_COLUMNS: Final = [balance_ledger.c[name] for name in SealedPosting.__struct_fields__]


# A posting above the sequence was written by hand: then the round goes its whole way, and counts it.
_FIND_FINAL_HEAD: Final = Statement("""
    SELECT head.seal_number, head.through_posting_id, head.seal_hash
    FROM billing.balance_ledger_posting_id_seq AS ids
    LEFT JOIN LATERAL (
        SELECT * FROM billing.ledger_seals ORDER BY seal_number DESC LIMIT 1
    ) AS head ON true
    WHERE coalesce(head.through_posting_id, 0) = CASE WHEN ids.is_called THEN ids.last_value ELSE 0 END
      AND NOT EXISTS (
        SELECT FROM billing.balance_ledger AS p WHERE p.posting_id > coalesce(head.through_posting_id, 0))
""")


class Horizon(NamedTuple):
    """Posting ids up to ``posting_id`` were handed out to transactions that are all older than ``transaction_id``.

    It speaks of the server that started at ``server_started_at``, and of no other.
    """

    posting_id: int
    transaction_id: int
    server_started_at: datetime


async def get_horizon(connection: AsyncConnection) -> Horizon:
    """Read how far posting ids have been handed out, and then take a transaction id, in this order.

    A trigger makes every writer take its transaction id before its first posting id. So every writer that was given an
    id up to the one read here has a smaller transaction id than this transaction.
    """
    handed_out = await connection.execute(
        text("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM billing.balance_ledger_posting_id_seq")
    )
    posting_id: int = handed_out.scalar_one()
    taken = await connection.execute(text("SELECT pg_current_xact_id()::text::bigint, pg_postmaster_start_time()"))
    return Horizon(posting_id, *taken.one())


async def is_closed(connection: AsyncConnection, horizon: Horizon) -> bool | None:
    """Whether every transaction that may use an id up to ``horizon`` has ended.

    None if the server is another one by now: it may be older than the horizon, and hand out the same ids again.
    """
    statement = text(
        "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= :transaction_id"
        " WHERE pg_postmaster_start_time() = :server_started_at"
    )
    closed: bool | None = await connection.scalar(statement, horizon._asdict())
    return closed


async def lock_chain(connection: AsyncConnection) -> bool:
    """Take the right to extend the chain until the transaction ends; False if another replica has taken it."""
    return bool((await connection.execute(select(func.pg_try_advisory_xact_lock(SEALING_LOCK)))).scalar_one())


async def get_head(connection: AsyncConnection) -> Head:
    """The newest seal, or the beginning of the chain."""
    columns = (ledger_seals.c.seal_number, ledger_seals.c.through_posting_id, ledger_seals.c.seal_hash)
    newest = select(*columns).order_by(ledger_seals.c.seal_number.desc()).limit(1)
    row = (await connection.execute(newest)).one_or_none()
    return NO_SEALS if row is None else Head(*row)


async def find_final_head(connection: AsyncConnection) -> Head | None:
    """The newest seal, if it covers every posting id that was handed out; None if there is something to seal."""
    row = await _FIND_FINAL_HEAD.fetch_one(connection, {})
    if row is None:
        return None
    return NO_SEALS if row["seal_number"] is None else Head(*row)


async def count_unsealed(connection: AsyncConnection, head: Head) -> int:
    """How many postings no seal covers yet."""
    statement = select(func.count()).select_from(balance_ledger)
    after = statement.where(balance_ledger.c.posting_id > head.through_posting_id)
    return (await connection.execute(after)).scalar_one()


async def find_postings(
    connection: AsyncConnection, after_posting_id: int, through_posting_id: int, limit: int | None = None
) -> list[SealedPosting]:
    """Postings of a range in posting order."""
    statement = (
        select(*POSTING_COLUMNS)
        .where(balance_ledger.c.posting_id > after_posting_id, balance_ledger.c.posting_id <= through_posting_id)
        .order_by(balance_ledger.c.posting_id)
        .limit(limit)
    )
    return [SealedPosting(*row) for row in await connection.execute(statement)]


async def add_seal(connection: AsyncConnection, seal: Seal) -> None:
    """Append a link. The database refuses a second one after the same posting."""
    statement = insert(ledger_seals).values(
        seal_number=seal.seal_number,
        after_posting_id=seal.after_posting_id,
        through_posting_id=seal.through_posting_id,
        posting_ids=list(seal.posting_ids),
        leaf_hashes=seal.leaf_hashes,
        previous_hash=seal.previous_hash,
        seal_hash=seal.seal_hash,
    )
    await connection.execute(statement)


async def find_seals(connection: AsyncConnection, after: int, limit: int = 20) -> list[Seal]:
    """The next seals of the chain, in order."""
    following = select(ledger_seals).where(ledger_seals.c.seal_number > after)
    rows = await connection.execute(following.order_by(ledger_seals.c.seal_number).limit(limit))
    return [
        Seal(
            seal_number=row.seal_number,
            after_posting_id=row.after_posting_id,
            through_posting_id=row.through_posting_id,
            posting_ids=tuple(row.posting_ids),
            leaf_hashes=row.leaf_hashes,
            previous_hash=row.previous_hash,
            seal_hash=row.seal_hash,
        )
        for row in rows
    ]
