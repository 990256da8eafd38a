"""Portions of a scope: the ids for which an invariant is evaluated.

An invariant is written once. Where its query names a scope, the whole, some ids or a range of ids can be put in, so
the check of what is new, the going-over and the check of all history can never differ in what they demand:

    OF_USER(u.user_id)                       a condition: the user is in the portion
    ROWS_OF_ORDERS(billing.reservations)     a relation: the rows of the portion's orders (or MESSAGES, TRANSFERS). A
                                             table is read once for all invariants, also for those that join with it
    LINES_OF_USERS(billing.balance_ledger)   a relation: lines of the portion's users that are not proven yet
    PROVEN_BALANCES()                        a relation: what the proven lines of the portion's users add up to
    ONE_BY_ONE()                             at the end of a subquery: for a portion it is asked for each row of it,
                                             not joined with the whole table

A query may name several scopes, in different parts. For a portion of one scope, the parts of the others are empty.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args
from uuid import UUID

from auditor.domain import Invariant

Scope = Literal["user", "order", "payment", "movement", "reservation", "transfer", "message", "archive"]
"""What an invariant is about. A movement is a grant or a clawback; a message is one in an outbox; an archive is what
one step of the gateway's ``archive`` took.
"""
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

LAST_ID: Final = UUID(int=2**128 - 1)

_ROWS: Final = re.compile(r"\bROWS_OF_([A-Z]+)S\(([a-z_.]+)\)")
_CONDITION: Final = re.compile(r"\bOF_([A-Z]+)\(([a-z_.]+)\)")
_LINES: Final = re.compile(r"\bLINES_OF_USERS\(([a-z_.]+)\)")
_PROVEN: Final = "PROVEN_BALANCES()"
_ONE_BY_ONE: Final = "ONE_BY_ONE()"
_IDS: Final = "CAST(:ids AS uuid[])"
_RANGE: Final = "BETWEEN CAST(:first AS uuid) AND CAST(:last AS uuid)"

# A proven sum counts only while its last line is still the one that was proven: a ledger that went back has it no more.
_STANDING: Final = """SELECT proven.* FROM auditor.proven_balances AS proven
    WHERE EXISTS (SELECT FROM billing.balance_ledger AS anchor
                  WHERE anchor.user_id = proven.user_id AND anchor.line_number = proven.line_number
                    AND anchor.transfer_id = proven.transfer_id)"""


_READ_ONCE: Final[Mapping[Scope, tuple[str, str]]] = {
    "order": ("generation_id", "*"),
    "reservation": ("reservation_id", "reservation_id"),
    "transfer": ("transfer_id", "*"),
    # Not the payload.
    "message": ("message_id", "message_id, subject, correlation_id, published_at, published_sequence"),
}
"""The column that has the scope's id, and those that are read."""


@dataclass(frozen=True, slots=True)
class Ids:
    """Some ids of a scope. What is proven of a user's lines is taken as proven."""

    scope: Scope
    ids: Sequence[UUID]


@dataclass(frozen=True, slots=True)
class Range:
    """The ids of a scope from ``first`` through ``last``. Nothing is taken as proven."""

    scope: Scope
    first: UUID
    last: UUID


Portion = Ids | Range


def scopes_of(invariant: Invariant) -> frozenset[Scope]:
    """The scopes that its query names."""
    named = {match[1].lower() for pattern in (_CONDITION, _ROWS) for match in pattern.finditer(invariant.query)}
    if _LINES.search(invariant.query):
        named.add("user")
    unknown = named - set(SCOPES)
    if unknown:
        raise ValueError(f"{invariant.code} names no scope with {unknown}")
    return frozenset(scope for scope in SCOPES if scope in named)


def rows_read_once(invariants: Sequence[Invariant], portion: Portion | None) -> str:
    """What comes before the queries of ``invariants`` in one statement: the rows of the portion, table by table."""
    if portion is None or portion.scope not in _READ_ONCE:
        return ""
    key, columns = _READ_ONCE[portion.scope]
    named = {(match[1].lower(), match[2]) for one in invariants for match in _ROWS.finditer(one.query)}
    rows = [
        f"{_name_of(table)} AS MATERIALIZED (SELECT {columns} FROM {table} WHERE {key} {_condition(portion)})"  # noqa: S608
        for scope, table in sorted(named)
        if scope == portion.scope
    ]
    return f"WITH {', '.join(rows)} " if rows else ""


def query_of(invariant: Invariant, portion: Portion | None) -> str:
    """The query of all rows that break ``invariant``, or of those in ``portion``, after ``rows_read_once``."""

    def of_scope(match: re.Match[str]) -> str:
        if portion is None:
            return "true"
        return f"({match[2]} {_condition(portion)})" if match[1].lower() == portion.scope else "false"

    query = _CONDITION.sub(of_scope, invariant.query)
    query = _ROWS.sub(lambda match: _rows(match[1].lower(), match[2], portion), query)
    query = _LINES.sub(lambda match: _lines(match[1], portion), query)
    query = query.replace(_ONE_BY_ONE, "" if portion is None else "OFFSET 0")
    return query.replace(_PROVEN, _proven(portion))


def parameters_of(portion: Portion | None) -> dict[str, Any]:
    """The values that ``query_of`` leaves open, besides the tolerance."""
    if portion is None:
        return {}
    if isinstance(portion, Ids):
        return {"ids": list(portion.ids)}
    return {"first": portion.first, "last": portion.last}


def _condition(portion: Portion) -> str:
    return f"= ANY({_IDS})" if isinstance(portion, Ids) else _RANGE


def _name_of(table: str) -> str:
    return f"rows_of_{table.replace('.', '_')}"


def _no_rows(table: str) -> str:
    return f"(SELECT * FROM {table} WHERE false)"  # noqa: S608 - a table of an invariant


def _rows(scope: str, table: str, portion: Portion | None) -> str:
    if portion is None:
        return table
    if portion.scope != scope:
        return _no_rows(table)
    return _name_of(table)


def _lines(table: str, portion: Portion | None) -> str:
    if portion is None:
        return table
    if portion.scope != "user":
        return _no_rows(table)
    if isinstance(portion, Range):
        return f"(SELECT * FROM {table} WHERE user_id {_RANGE})"  # noqa: S608
    return f"""(
                SELECT line.* FROM unnest({_IDS}) AS one (user_id)
                LEFT JOIN ({_STANDING}) AS known USING (user_id)
                CROSS JOIN LATERAL (
                    SELECT * FROM {table} AS every WHERE every.user_id = one.user_id
                      AND every.line_number > coalesce(known.line_number, -9223372036854775808)
                ) AS line
            )"""  # noqa: S608


def _proven(portion: Portion | None) -> str:
    if isinstance(portion, Ids) and portion.scope == "user":
        return f"({_STANDING} AND proven.user_id = ANY({_IDS}))"
    return _no_rows("auditor.proven_balances")
