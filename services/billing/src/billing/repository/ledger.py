"""The SQL of the credits, and the order in which it locks.

Lock order: the rows of ``billing.users``, sorted by id, once per transaction and before anything else of billing is
read or written. Everything that a user owns is decided under that lock, so no other row needs one.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Insert,
    Table,
    TableValuedAlias,
    and_,
    bindparam,
    func,
    insert,
    literal_column,
    not_,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from billing.domain import Account, Clawback, Draw, Grant, Posting, Refusal, Reservation, Resolution
from billing.tables import (
    balance_ledger,
    clawbacks,
    grants,
    operator_grants,
    refusals,
    reservation_grants,
    reservation_resolutions,
    reservations,
    users,
)
from contracts.billing import GrantCredits


class Verdict(NamedTuple):
    """An earlier decision about an order: it was reserved or refused for this user at this price."""

    user_id: UUID
    price_credits: int


class GrantKey(NamedTuple):
    """The identity of an earlier grant: its id with the hash of its content, and the payment that it credits."""

    grant_id: UUID
    content_hash: bytes
    payment_id: UUID | None
    reason: str


def _unnest(table: Table, names: Sequence[str]) -> TableValuedAlias:
    """Rows made of one array parameter per column, named ``<column>s``."""
    arrays = [bindparam(f"{name}s", type_=ARRAY(table.c[name].type)) for name in names]
    return func.unnest(*arrays).table_valued(*names, name="rows").render_derived()


def _insert_rows(table: Table, names: Sequence[str]) -> Insert:
    """One statement for any number of rows: its triggers run once, and its plan is prepared once."""
    rows = _unnest(table, names)
    return insert(table).from_select(list(names), select(*(rows.c[name] for name in names)))


def _is_any(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Whether the column is one of the values in the array parameter ``name``."""
    return column == func.any(bindparam(name, type_=ARRAY(column.type)))


def _columns(names: Sequence[str], rows: Iterable[Sequence[object]]) -> dict[str, list[object]]:
    columns = list(zip(*rows, strict=True))
    return {f"{name}s": list(column) for name, column in zip(names, columns, strict=True)}


_POSTING = tuple(column.name for column in balance_ledger.columns if column.name != "posting_id")
_RESERVATION = ("reservation_id", "generation_id", "user_id", "amount_credits", "deadline_at", "reserved_at")
_DRAW = ("reservation_id", "position", "grant_id", "amount_credits")
_RESOLUTION = ("reservation_id", "status", "captured_credits", "released_credits", "resolved_at")
_REFUSAL = ("generation_id", "user_id", "code", "required_credits", "available_credits", "refused_at")
_GRANT = tuple(column.name for column in grants.columns)
_CLAWBACK = tuple(column.name for column in clawbacks.columns)
_REMAINDER = ("grant_id", "remaining_credits")

_INSERT_POSTINGS = _insert_rows(balance_ledger, _POSTING)
_INSERT_RESERVATIONS = _insert_rows(reservations, _RESERVATION)
_INSERT_DRAWS = _insert_rows(reservation_grants, _DRAW)
_INSERT_RESOLUTIONS = _insert_rows(reservation_resolutions, _RESOLUTION)
_INSERT_REFUSALS = _insert_rows(refusals, _REFUSAL)
_INSERT_GRANTS = _insert_rows(grants, _GRANT)
_INSERT_CLAWBACKS = _insert_rows(clawbacks, _CLAWBACK)

_new_users = _unnest(users, ("user_id",))
_OPEN_USERS = (
    postgresql_insert(users)
    .from_select(["user_id"], select(_new_users.c.user_id).order_by(_new_users.c.user_id))
    .on_conflict_do_nothing()
)
_LOCK_USERS = select(users).where(_is_any(users.c.user_id, "user_ids")).order_by(users.c.user_id).with_for_update()
_FIND_GRANTS = select(
    grants.c.grant_id,
    grants.c.user_id,
    grants.c.reason,
    grants.c.remaining_credits,
    grants.c.payment_id,
    grants.c.expires_at,
    grants.c.granted_at,
).where(
    or_(
        and_(_is_any(grants.c.user_id, "user_ids"), grants.c.remaining_credits > literal_column("0")),
        _is_any(grants.c.grant_id, "drawn"),
    )
)
_FIND_VERDICTS = union_all(
    select(
        reservations.c.generation_id, reservations.c.user_id, reservations.c.amount_credits.label("price_credits")
    ).where(_is_any(reservations.c.generation_id, "generation_ids")),
    select(refusals.c.generation_id, refusals.c.user_id, refusals.c.required_credits).where(
        _is_any(refusals.c.generation_id, "generation_ids")
    ),
)
_FIND_RESERVATIONS = (
    select(
        reservations,
        func.array_agg(aggregate_order_by(reservation_grants.c.grant_id, reservation_grants.c.position)),
        func.array_agg(aggregate_order_by(reservation_grants.c.amount_credits, reservation_grants.c.position)),
    )
    .join(reservation_grants, reservation_grants.c.reservation_id == reservations.c.reservation_id)
    .where(_is_any(reservations.c.generation_id, "generation_ids"))
    .group_by(reservations.c.reservation_id)
)
_FIND_GRANT_KEYS = select(grants.c.grant_id, grants.c.content_hash, grants.c.payment_id, grants.c.reason).where(
    or_(_is_any(grants.c.grant_id, "grant_ids"), _is_any(grants.c.payment_id, "payment_ids"))
)
_FIND_CLAWBACK_HASHES = select(clawbacks.c.clawback_id, clawbacks.c.content_hash).where(
    _is_any(clawbacks.c.clawback_id, "clawback_ids")
)
_TIME = select(func.clock_timestamp())
_remainders = _unnest(grants, _REMAINDER)
_UPDATE_GRANTS = (
    update(grants)
    .where(grants.c.grant_id == _remainders.c.grant_id)
    .values(remaining_credits=_remainders.c.remaining_credits)
)

_OVERDUE = (reservations.c.status == literal_column("'held'")) & (reservations.c.deadline_at < func.clock_timestamp())


async def lock_users(connection: AsyncConnection, user_ids: Iterable[UUID], *, opening: bool) -> dict[UUID, Account]:
    """Lock the users' rows in one fixed order, so that no two transactions ever wait for each other in a circle.

    With ``opening``, users not seen before get a row first: FOR UPDATE on a missing row would lock nothing. That step
    holds no lock on a row that existed, and waits in the same order, so it cannot close a circle either.
    """
    parameters = {"user_ids": sorted(set(user_ids))}
    if opening:
        await connection.execute(_OPEN_USERS, parameters)
    rows = await connection.execute(_LOCK_USERS, parameters)
    return {
        row.user_id: Account(
            user_id=row.user_id,
            available_credits=row.available_credits,
            reserved_credits=row.reserved_credits,
            receivable_credits=row.receivable_credits,
            line_number=row.line_number,
        )
        for row in rows
    }


async def get_time(connection: AsyncConnection) -> datetime:
    """The database's clock now. Asked after locking, so that the times on one user's statement never go back."""
    now: datetime = (await connection.execute(_TIME)).scalar_one()
    return now


async def find_grants(connection: AsyncConnection, accounts: dict[UUID, Account], drawn: Iterable[UUID] = ()) -> None:
    """Give each locked account its grants: those with credits left, and those in ``drawn``."""
    rows = await connection.execute(_FIND_GRANTS, {"user_ids": list(accounts), "drawn": list(drawn)})
    for row in rows:
        grant = Grant(
            grant_id=row.grant_id,
            reason=row.reason,
            remaining_credits=row.remaining_credits,
            payment_id=row.payment_id,
            expires_at=row.expires_at,
            granted_at=row.granted_at,
        )
        accounts[row.user_id].add_grant(grant)


async def find_verdicts(connection: AsyncConnection, generation_ids: Sequence[UUID]) -> dict[UUID, Verdict]:
    """The verdicts of those orders that already have one."""
    rows = await connection.execute(_FIND_VERDICTS, {"generation_ids": generation_ids})
    return {row.generation_id: Verdict(row.user_id, row.price_credits) for row in rows}


async def find_reservations(connection: AsyncConnection, generation_ids: Sequence[UUID]) -> dict[UUID, Reservation]:
    """The reservations of these generations, each with its draws in spending order."""
    rows = await connection.execute(_FIND_RESERVATIONS, {"generation_ids": generation_ids})
    return {
        row.generation_id: Reservation(
            reservation_id=row.reservation_id,
            generation_id=row.generation_id,
            user_id=row.user_id,
            amount_credits=row.amount_credits,
            deadline_at=row.deadline_at,
            reserved_at=row.reserved_at,
            draws=tuple(Draw(grant_id, amount) for grant_id, amount in zip(row[-2], row[-1], strict=True)),
            status=row.status,
            captured_credits=row.captured_credits,
        )
        for row in rows
    }


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


async def add_postings(connection: AsyncConnection, rows: Sequence[Posting]) -> None:
    """Write transfers. The database applies them to the balances and checks them at commit."""
    if rows:
        values = ([getattr(row, name) for name in _POSTING] for row in rows)
        await connection.execute(_INSERT_POSTINGS, _columns(_POSTING, values))


async def add_reservations(connection: AsyncConnection, rows: Sequence[Reservation]) -> None:
    """Write reservations and what each drew from which grant."""
    if not rows:
        return
    values = ([getattr(row, name) for name in _RESERVATION] for row in rows)
    await connection.execute(_INSERT_RESERVATIONS, _columns(_RESERVATION, values))
    draws = (
        (row.reservation_id, position, draw.grant_id, draw.amount_credits)
        for row in rows
        for position, draw in enumerate(row.draws)
    )
    await connection.execute(_INSERT_DRAWS, _columns(_DRAW, draws))


async def add_resolutions(connection: AsyncConnection, rows: Sequence[Resolution]) -> None:
    """End reservations. The database refuses a second end of the same one."""
    if rows:
        values = ([getattr(row, name) for name in _RESOLUTION] for row in rows)
        await connection.execute(_INSERT_RESOLUTIONS, _columns(_RESOLUTION, values))


async def add_refusals(connection: AsyncConnection, rows: Sequence[Refusal]) -> None:
    """Remember which orders were refused."""
    if rows:
        values = ([getattr(row, name) for name in _REFUSAL] for row in rows)
        await connection.execute(_INSERT_REFUSALS, _columns(_REFUSAL, values))


async def add_grants(
    connection: AsyncConnection, rows: Sequence[tuple[GrantCredits, bytes]], granted_at: datetime
) -> None:
    """Write grants with their full amount; ``update_grants`` then writes what a debt or an expiry took."""
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


async def update_grants(connection: AsyncConnection, accounts: Iterable[Account]) -> None:
    """Write the remainder of every grant that the batch changed."""
    rows = [
        (grant_id, account.grants[grant_id].remaining_credits)
        for account in accounts
        for grant_id in account.changed_grants
    ]
    if rows:
        await connection.execute(_UPDATE_GRANTS, _columns(_REMAINDER, rows))


async def count_overdue(connection: AsyncConnection) -> int:
    """How many reservations are still held past their deadline."""
    count = select(func.count()).select_from(reservations).where(_OVERDUE)
    return (await connection.execute(count)).scalar_one()


async def find_overdue_generations(connection: AsyncConnection, limit: int) -> list[UUID]:
    """The generations of the reservations that are overdue the longest."""
    oldest = select(reservations.c.generation_id).where(_OVERDUE).order_by(reservations.c.deadline_at).limit(limit)
    return list((await connection.execute(oldest)).scalars())
