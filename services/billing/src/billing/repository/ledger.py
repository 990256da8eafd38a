"""The SQL of the credits, and the order in which it locks.

Lock order: the rows of ``billing.users``, sorted by id, once per transaction and before anything else of billing is
read or written. Everything that a user owns is decided under that lock, so no other row needs one.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Insert,
    Table,
    bindparam,
    func,
    insert,
    literal_column,
    not_,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from billing.domain import Account, Book, Clawback, Draw, Grant, Refusal, Reservation, Resolution, Transfer
from billing.tables import clawbacks, grants, operator_grants, refusals, reservations
from contracts.billing import GrantCredits
from contracts.values import LedgerLine
from service_runtime.statements import Record, Statement


class Verdict(msgspec.Struct, frozen=True):
    """An earlier decision about an order: it was reserved or refused for this user at this price."""

    user_id: UUID
    price_credits: int


class GrantKey(NamedTuple):
    """The identity of an earlier grant: its id with the hash of its content, and the payment that it credits."""

    grant_id: UUID
    content_hash: bytes
    payment_id: UUID | None
    reason: str


def _insert_rows(table: Table, names: Sequence[str]) -> Insert:
    """One statement for any number of rows, of one array parameter per column, named ``<column>s``.

    Its triggers run once, and its plan is prepared once.
    """
    arrays = [bindparam(f"{name}s", type_=ARRAY(table.c[name].type)) for name in names]
    rows = func.unnest(*arrays).table_valued(*names, name="rows").render_derived()
    return insert(table).from_select(list(names), select(*(rows.c[name] for name in names)))


def _is_any(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Whether the column is one of the values in the array parameter ``name``."""
    return column == func.any(bindparam(name, type_=ARRAY(column.type)))


def _columns(names: Sequence[str], rows: Iterable[Sequence[object]]) -> dict[str, list[object]]:
    columns = list(zip(*rows, strict=True))
    return {f"{name}s": list(column) for name, column in zip(names, columns, strict=True)}


_REFUSAL = ("generation_id", "user_id", "code", "required_credits", "available_credits", "refused_at")
_GRANT = tuple(column.name for column in grants.columns)
_CLAWBACK = tuple(column.name for column in clawbacks.columns)

_INSERT_REFUSALS = _insert_rows(refusals, _REFUSAL)
_INSERT_GRANTS = _insert_rows(grants, _GRANT)
_INSERT_CLAWBACKS = _insert_rows(clawbacks, _CLAWBACK)

_OPEN_USERS = Statement("""
    INSERT INTO billing.users (user_id)
    SELECT wanted.user_id FROM unnest(CAST(:user_ids AS uuid[])) AS wanted (user_id) ORDER BY wanted.user_id
    ON CONFLICT DO NOTHING
""")
_LOCK = """
    SELECT user_id, available_credits, reserved_credits, receivable_credits, line_number
    FROM billing.users WHERE user_id = ANY(CAST(:user_ids AS uuid[])) {condition}
    ORDER BY user_id FOR UPDATE
"""
_LOCK_USERS = Statement(_LOCK.format(condition=""))
_LOCK_KNOWN_USERS = Statement(
    _LOCK.format(
        condition="""AND cardinality(CAST(:user_ids AS uuid[])) = (
            SELECT count(*) FROM billing.users AS known WHERE known.user_id = ANY(CAST(:user_ids AS uuid[])))"""
    )
)

_SPENDABLE = "user_id = ANY(CAST(:user_ids AS uuid[])) AND remaining_credits > 0"
_OF_ORDERS = "generation_id = ANY(CAST(:generation_ids AS uuid[]))"
_GRANTS = """
    SELECT clock_timestamp() AS now, ARRAY(
        SELECT ROW(user_id, grant_id, reason, remaining_credits, payment_id, expires_at, granted_at)
        FROM billing.grants WHERE {condition}) AS grants
"""
_FIND_GRANTS = Statement(_GRANTS.format(condition=_SPENDABLE))
_FIND_VERDICTS = Statement(f"""
    {_GRANTS.format(condition=_SPENDABLE)}, ARRAY(
        SELECT ROW(generation_id, user_id, amount_credits) FROM billing.reservations WHERE {_OF_ORDERS}
        UNION ALL
        SELECT ROW(generation_id, user_id, required_credits) FROM billing.refusals WHERE {_OF_ORDERS}) AS verdicts
""")  # noqa: S608 - constants
_DRAWS_OF_ORDERS = f"""
    FROM billing.reservations JOIN billing.reservation_grants USING (reservation_id) WHERE {_OF_ORDERS}
"""
_SPENDABLE_OR_DRAWN = f"({_SPENDABLE}) OR grant_id = ANY(ARRAY(SELECT grant_id {_DRAWS_OF_ORDERS}))"
_FIND_RESERVATIONS = Statement(f"""
    {_GRANTS.format(condition=_SPENDABLE_OR_DRAWN)}, ARRAY(
        SELECT ROW(reservation_id, generation_id, user_id, amount_credits, status, captured_credits, deadline_at,
                   reserved_at)
        FROM billing.reservations WHERE {_OF_ORDERS}) AS reservations, ARRAY(
        SELECT ROW(reservation_id, grant_id, reservation_grants.amount_credits) {_DRAWS_OF_ORDERS}
        ORDER BY reservation_id, position) AS draws
""")  # noqa: S608 - constants
_FIND_GRANT_KEYS = select(grants.c.grant_id, grants.c.content_hash, grants.c.payment_id, grants.c.reason).where(
    or_(_is_any(grants.c.grant_id, "grant_ids"), _is_any(grants.c.payment_id, "payment_ids"))
)
_FIND_CLAWBACK_HASHES = select(clawbacks.c.clawback_id, clawbacks.c.content_hash).where(
    _is_any(clawbacks.c.clawback_id, "clawback_ids")
)
_TIME = select(func.clock_timestamp())

# The users are locked until the commit and each statement is a round trip: one statement writes what a batch decided.
_POSTINGS = """
    INSERT INTO billing.balance_ledger
        (transfer_id, account, amount_credits, reason, user_id, line_number, generation_id, payment_id, grant_id,
         clawback_id, note, occurred_at)
    SELECT transfer_id, posting.account, posting.amount_credits, reason, posting.user_id, posting.line_number,
           generation_id, payment_id, grant_id, clawback_id, note, CAST(:occurred_at AS timestamptz)
    FROM unnest(CAST(:transfers AS billing.transfer_row[])) AS transfer
    CROSS JOIN LATERAL (VALUES
        ('user:available', available_credits, transfer.user_id, transfer.line_number),
        ('user:reserved', reserved_credits, transfer.user_id, transfer.line_number),
        ('user:receivable', -receivable_credits, transfer.user_id, transfer.line_number),
        (platform, platform_credits, NULL, NULL)
    ) AS posting (account, amount_credits, user_id, line_number)
    WHERE posting.amount_credits <> 0
"""
_REMAINDERS = """
    UPDATE billing.grants SET remaining_credits = changed.remaining_credits
    FROM unnest(CAST(:changed_grant_ids AS uuid[]), CAST(:remainders AS bigint[]))
        AS changed (grant_id, remaining_credits)
    WHERE grants.grant_id = changed.grant_id
"""
_RESERVATIONS = """
    INSERT INTO billing.reservations
        (reservation_id, generation_id, user_id, amount_credits, deadline_at, reserved_at)
    SELECT one.*, CAST(:occurred_at AS timestamptz)
    FROM unnest(CAST(:reservations AS billing.reservation_row[])) AS one
"""
_DRAWS = """
    INSERT INTO billing.reservation_grants (reservation_id, position, grant_id, amount_credits)
    SELECT * FROM unnest(CAST(:draws AS billing.draw_row[]))
"""
_RESOLUTIONS = """
    INSERT INTO billing.reservation_resolutions
        (reservation_id, status, captured_credits, released_credits, resolved_at)
    SELECT one.*, CAST(:occurred_at AS timestamptz)
    FROM unnest(CAST(:resolutions AS billing.resolution_row[])) AS one
"""
_ADD_TRANSFERS = Statement(f"WITH postings AS ({_POSTINGS}) {_REMAINDERS}")
_ADD_RESERVATIONS = Statement(
    f"WITH postings AS ({_POSTINGS}), reservations AS ({_RESERVATIONS}), draws AS ({_DRAWS}) {_REMAINDERS}"
)
_ADD_RESOLUTIONS = Statement(f"WITH postings AS ({_POSTINGS}), resolutions AS ({_RESOLUTIONS}) {_REMAINDERS}")

_OVERDUE = (reservations.c.status == literal_column("'held'")) & (reservations.c.deadline_at < func.clock_timestamp())


async def lock_users(connection: AsyncConnection, user_ids: Iterable[UUID], *, opening: bool) -> dict[UUID, Account]:
    """Lock the users' rows in one fixed order, so that no two transactions ever wait for each other in a circle.

    With ``opening``, users not seen before get a row: FOR UPDATE on a missing row would lock nothing. While one is
    missing, none is locked: the step that opens them waits in the same order, and holds no lock on a row that existed,
    so it cannot close a circle either.
    """
    parameters = {"user_ids": sorted(set(user_ids))}
    rows = await (_LOCK_KNOWN_USERS if opening else _LOCK_USERS).fetch(connection, parameters)
    if opening and not rows:
        await _OPEN_USERS.execute(connection, parameters)
        rows = await _LOCK_USERS.fetch(connection, parameters)
    return {row["user_id"]: Account(**row) for row in rows}


async def get_time(connection: AsyncConnection) -> datetime:
    """The database's clock now."""
    now: datetime = (await connection.execute(_TIME)).scalar_one()
    return now


# After the locking, each handler reads all that it needs with one statement. The database's clock is part of it, so
# that the times on one user's statement never go back.


async def find_grants(connection: AsyncConnection, accounts: dict[UUID, Account]) -> datetime:
    """Give each locked account its grants with credits left. Returns the database's clock."""
    [row] = await _FIND_GRANTS.fetch(connection, {"user_ids": list(accounts)})
    return _read_grants(row, accounts)


async def find_verdicts(
    connection: AsyncConnection, accounts: dict[UUID, Account], generation_ids: Sequence[UUID]
) -> tuple[datetime, dict[UUID, Verdict]]:
    """``find_grants``, and the verdicts of those orders that already have one."""
    values = {"user_ids": list(accounts), "generation_ids": generation_ids}
    [row] = await _FIND_VERDICTS.fetch(connection, values)
    verdicts = {generation_id: Verdict(user_id, price) for generation_id, user_id, price in row["verdicts"]}
    return _read_grants(row, accounts), verdicts


async def find_reservations(
    connection: AsyncConnection, accounts: dict[UUID, Account], generation_ids: Sequence[UUID]
) -> tuple[datetime, dict[UUID, Reservation]]:
    """``find_grants``, and the reservations of these generations with the grants that they drew from."""
    values = {"user_ids": list(accounts), "generation_ids": generation_ids}
    [row] = await _FIND_RESERVATIONS.fetch(connection, values)
    draws: dict[UUID, list[Draw]] = {}
    for reservation_id, grant_id, amount in row["draws"]:
        draws.setdefault(reservation_id, []).append(Draw(grant_id, amount))
    found = [
        Reservation(
            reservation_id=reservation_id,
            generation_id=generation_id,
            user_id=user_id,
            amount_credits=amount,
            status=status,
            captured_credits=captured,
            deadline_at=deadline_at,
            reserved_at=reserved_at,
            draws=tuple(draws[reservation_id]),
        )
        for reservation_id, generation_id, user_id, amount, status, captured, deadline_at, reserved_at in (
            row["reservations"]
        )
    ]
    return _read_grants(row, accounts), {reservation.generation_id: reservation for reservation in found}


def _read_grants(row: Record, accounts: dict[UUID, Account]) -> datetime:
    for user_id, grant_id, reason, remaining, payment_id, expires_at, granted_at in row["grants"]:
        # A reservation that was committed only after the locking drew from grants of a user who is not locked.
        if user_id in accounts:
            accounts[user_id].add_grant(
                Grant(
                    grant_id=grant_id,
                    reason=reason,
                    remaining_credits=remaining,
                    payment_id=payment_id,
                    expires_at=expires_at,
                    granted_at=granted_at,
                )
            )
    now: datetime = row["now"]
    return now


async def find_grant_keys(
    connection: AsyncConnection, grant_ids: Sequence[UUID], payment_ids: Sequence[UUID]
) -> list[GrantKey]:
    """The earlier grants with these ids or for these payments."""
    rows = await connection.execute(_FIND_GRANT_KEYS, {"grant_ids": grant_ids, "payment_ids": payment_ids})
    return [GrantKey(*row) for row in rows]


async def find_clawback_hashes(connection: AsyncConnection, clawback_ids: Sequence[UUID]) -> dict[UUID, bytes]:
    """The content hashes of the earlier clawbacks with these ids."""
    rows = await connection.execute(_FIND_CLAWBACK_HASHES, {"clawback_ids": clawback_ids})
    return {row.clawback_id: row.content_hash for row in rows}


async def find_users_with_due_grants(connection: AsyncConnection, limit: int, skipped: Sequence[UUID]) -> list[UUID]:
    """Users with credits left in a due grant, the longest overdue first, without the ``skipped`` users."""
    rows = await connection.execute(
        select(grants.c.user_id)
        .where(
            grants.c.remaining_credits > literal_column("0"),
            grants.c.expires_at <= func.clock_timestamp(),
            not_(_is_any(grants.c.user_id, "skipped")),
        )
        .order_by(grants.c.expires_at)
        .limit(limit),
        {"skipped": list(skipped)},
    )
    return list(dict.fromkeys(rows.scalars()))


async def add_transfers(connection: AsyncConnection, book: Book, accounts: Iterable[Account]) -> None:
    """Write transfers, and the remainders of the grants that they changed.

    The database applies the postings to the balances, and checks them at commit.
    """
    if book.transfers:
        await _ADD_TRANSFERS.execute(connection, _transfers(book, accounts))


async def add_reservations(
    connection: AsyncConnection, book: Book, accounts: Iterable[Account], rows: Sequence[Reservation]
) -> None:
    """:func:`add_transfers`, and the reservations with what each drew from which grant."""
    if not book.transfers:
        return
    values = {
        "reservations": [
            (row.reservation_id, row.generation_id, row.user_id, row.amount_credits, row.deadline_at) for row in rows
        ],
        "draws": [
            (row.reservation_id, position, draw.grant_id, draw.amount_credits)
            for row in rows
            for position, draw in enumerate(row.draws)
        ],
    }
    await _ADD_RESERVATIONS.execute(connection, _transfers(book, accounts) | values)


async def add_resolutions(
    connection: AsyncConnection, book: Book, accounts: Iterable[Account], rows: Sequence[Resolution]
) -> None:
    """:func:`add_transfers`, and the ends of reservations. The database refuses a second end of the same one."""
    if not book.transfers:
        return
    values = {
        "resolutions": [(row.reservation_id, row.status, row.captured_credits, row.released_credits) for row in rows]
    }
    await _ADD_RESOLUTIONS.execute(connection, _transfers(book, accounts) | values)


def _transfers(book: Book, accounts: Iterable[Account]) -> dict[str, object]:
    changed = [(id_, account.grants[id_].remaining_credits) for account in accounts for id_ in account.changed_grants]
    return {
        "occurred_at": book.occurred_at,
        "transfers": [_transfer(transfer.line, transfer) for transfer in book.transfers],
        "changed_grant_ids": [grant_id for grant_id, _ in changed],
        "remainders": [remaining for _, remaining in changed],
    }


def _transfer(line: LedgerLine, transfer: Transfer) -> tuple[object, ...]:
    return (
        line.transfer_id,
        line.reason,
        line.user_id,
        line.line_number,
        line.available_delta_credits,
        line.reserved_delta_credits,
        line.receivable_delta_credits,
        transfer.platform,
        transfer.platform_credits,
        line.generation_id,
        line.payment_id,
        transfer.cause.grant_id,
        transfer.cause.clawback_id,
        line.note,
    )


async def add_refusals(connection: AsyncConnection, rows: Sequence[Refusal]) -> None:
    """Remember which orders were refused."""
    if rows:
        values = ([getattr(row, name) for name in _REFUSAL] for row in rows)
        await connection.execute(_INSERT_REFUSALS, _columns(_REFUSAL, values))


async def add_grants(
    connection: AsyncConnection, rows: Sequence[tuple[GrantCredits, bytes]], granted_at: datetime
) -> None:
    """Write grants with their full amount; :func:`add_transfers` then writes what a debt or an expiry took."""
    if rows:
        values = (
            (
                command.grant_id,
                content_hash,
                command.user_id,
                command.amount_credits,
                command.amount_credits,
                command.reason,
                command.actor,
                command.payment_id,
                command.note,
                command.expires_at,
                granted_at,
            )
            for command, content_hash in rows
        )
        await connection.execute(_INSERT_GRANTS, _columns(_GRANT, values))


async def add_operator_grants(connection: AsyncConnection, commands: Sequence[GrantCredits]) -> None:
    """Record that an operator made these grants. Repeating it changes nothing."""
    values = [{"grant_id": command.grant_id, "actor": command.actor} for command in commands]
    await connection.execute(postgresql_insert(operator_grants).values(values).on_conflict_do_nothing())


async def add_clawbacks(connection: AsyncConnection, rows: Sequence[tuple[Clawback, bytes]]) -> None:
    """Write clawbacks."""
    if rows:
        values = (
            (
                clawback.clawback_id,
                content_hash,
                clawback.user_id,
                clawback.payment_id,
                clawback.reason,
                clawback.taken_credits,
                clawback.receivable_credits,
                clawback.note,
                clawback.clawed_back_at,
            )
            for clawback, content_hash in rows
        )
        await connection.execute(_INSERT_CLAWBACKS, _columns(_CLAWBACK, values))


async def count_overdue(connection: AsyncConnection) -> int:
    """How many reservations are still held past their deadline."""
    count = select(func.count()).select_from(reservations).where(_OVERDUE)
    return (await connection.execute(count)).scalar_one()


async def find_overdue_generations(connection: AsyncConnection, limit: int) -> list[UUID]:
    """The generations of the reservations that are overdue the longest."""
    oldest = select(reservations.c.generation_id).where(_OVERDUE).order_by(reservations.c.deadline_at).limit(limit)
    return list((await connection.execute(oldest)).scalars())
