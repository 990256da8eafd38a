"""Leased work: rows of a table that processes work on one at a time, for a bounded time, behind a fence.

A *claim* is the right to work on one row. It lasts for the *lease*, which a heartbeat extends while the work goes on.
Each claim raises the row's *fence*, a counter: a worker that was stopped past its lease still holds the old number,
and whatever it writes under that number is refused.

The contract, for who writes such work:

- **Claim.** One UPDATE that sets ``claim_values``, a transaction of its own, on rows that are ``due``, with
  ``FOR UPDATE SKIP LOCKED``. Which of the due rows come first (users in turn, the oldest, one lane before another) is
  the service's own query. It names them by key: ``any_of``, or ``= ANY (ARRAY(SELECT …))`` in a text.
  A row may be claimed as it is written, with fence 1 and as the first try, after ``LeasedWorker.reserve``: only where
  nothing that is due waits for a place.
- **Work** runs outside any transaction and may run more than once, and in two processes at once: after a kill, after a
  freeze, after a lost connection. So every call to another system repeats under the same idempotency key.
- **Complete and postpone** run in the transaction of the effect, before anything else is written there. They answer
  False if another worker has claimed the row since, or this claim has ended already: then the transaction must write
  nothing. The effect therefore happens once, whatever the work did.
- **Nothing waits for long.** The row of a worker that was killed or frozen is due again when its lease ends: after the
  lease and one poll, another worker has it. The row of a worker that stops in order is due at once. The one exception
  is a worker that freezes between ``complete`` and COMMIT: its row lock lasts until the database ends the idle
  transaction (30 s).
- **No other worker's lease is touched.** ``extend`` and ``release`` leave rows alone that another worker has claimed.

``tests/messaging/leases/conformance.py`` holds all of that for every table that is leased. ``LeasedWorker`` runs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final, Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from messaging.failpoints import failpoint
from service_runtime.statements import Record

LEASE: Final = timedelta(seconds=20)
"""How long the row of a worker that was killed rests. Four heartbeats: three may fail before it is lost."""

HEARTBEAT: Final = timedelta(seconds=5)

BOUND_LEASE: Final[sa.BindParameter[timedelta]] = sa.bindparam("lease", type_=sa.Interval())
"""For the UPDATE of a claim that is built once: to build one takes more processor than to execute it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on the row ``key`` (its primary key) until the lease ends.

    ``tries`` counts this claim: 1 at the first.
    """

    key: tuple[Any, ...]
    fence: int
    tries: int


def any_of(key: sa.ColumnElement[Any], chosen: sa.Select[Any]) -> sa.ColumnElement[bool]:
    """The condition that ``key`` is one that ``chosen`` selects, for the UPDATE of a claim.

    The server reads ``chosen`` first and then each row by its key. A join, or ``IN``, would leave it to the statistics
    whether the table is read as a whole for it, and those of a queue are seldom true.
    """
    return key == sa.any_(sa.func.array(chosen.scalar_subquery()))


class Leased(Protocol):
    """A claimed row as its service reads it: it carries its claim."""

    @property
    def claim(self) -> Claim: ...


@dataclass(frozen=True, slots=True)
class LeasedTable:
    """Which columns of ``table`` make its rows leased work.

    ``due_at`` is when the row is to be worked on next, NULL when it is done. ``leased_until`` is NULL while no
    worker has it. ``fence`` (bigint, not null, default 0) grows with each claim. ``tries`` (integer, not null,
    default 0) counts the claims that were not given back.
    """

    table: sa.Table
    due_at: str = "due_at"
    leased_until: str = "leased_until"
    fence: str = "fence"
    tries: str = "tries"

    def due(self) -> sa.ColumnElement[bool]:
        """The condition under which a row may be claimed now."""
        columns = self.table.c
        leased_until = columns[self.leased_until]
        return sa.and_(
            columns[self.due_at] <= sa.func.now(), sa.or_(leased_until.is_(None), leased_until < sa.func.now())
        )

    def claim_values(self, lease: timedelta | sa.ColumnElement[timedelta]) -> dict[str, Any]:
        """What the UPDATE of a claim sets. Where that is built once, ``lease`` is :data:`BOUND_LEASE`."""
        columns = self.table.c
        return {
            self.leased_until: sa.func.now() + lease,
            self.fence: columns[self.fence] + 1,
            self.tries: columns[self.tries] + 1,
        }

    def due_sql(self, alias: str) -> str:
        """:meth:`due` for a statement that is written as text; ``alias`` is the table's name in it."""
        leased_until = f"{alias}.{self.leased_until}"
        return f"({alias}.{self.due_at} <= now() AND ({leased_until} IS NULL OR {leased_until} < now()))"

    def claim_sql(self, alias: str) -> str:
        """:meth:`claim_values` for a statement that is written as text, with the lease bound as ``:lease``."""
        return (
            f"{self.leased_until} = now() + CAST(:lease AS interval), "
            f"{self.fence} = {alias}.{self.fence} + 1, {self.tries} = {alias}.{self.tries} + 1"
        )

    def complete_sql(self) -> str:
        """What the UPDATE of :meth:`complete` sets, for a statement that is written as text."""
        return f"{self.due_at} = NULL, {self.leased_until} = NULL"

    def held_sql(self, alias: str) -> str:
        """:meth:`held` for a statement that is written as text: it names the key, and binds the fence as ``:fence``."""
        return f"({alias}.{self.fence} = :fence AND {alias}.{self.leased_until} IS NOT NULL)"

    def claim_of(self, row: sa.Row[Any] | Record) -> Claim:
        """The claim that a row stands for which the UPDATE of a claim returned."""
        values = row._mapping if isinstance(row, sa.Row) else row
        return Claim(tuple(values[column.name] for column in self._key), values[self.fence], values[self.tries])

    def held(self, claim: Claim) -> sa.ColumnElement[bool]:
        """The condition under which ``claim`` stands: no worker has claimed the row since, and it has not ended."""
        return self._held_by(claim.key, claim.fence)

    async def extend(self, connection: AsyncConnection, claims: Sequence[Claim], lease: timedelta) -> set[Claim]:
        """Say that these are still being worked on. Returns those that are lost: another worker has their rows.

        A row that is locked at the moment is passed over: it is being completed or claimed.
        Both statements stand alone. Outside a transaction, a worker that freezes between them leaves no lock behind.
        """
        free = sa.select(*self._key).where(self._held(claims)).with_for_update(skip_locked=True)
        key = sa.tuple_(*self._key)
        extended = sa.update(self.table).where(key.in_(free)).values({self.leased_until: sa.func.now() + lease})
        await connection.execute(extended)
        current = sa.select(*self._key, self.table.c[self.fence]).where(key.in_([claim.key for claim in claims]))
        fences = {tuple(row[:-1]): row[-1] for row in await connection.execute(current)}
        return {claim for claim in claims if fences.get(claim.key) != claim.fence}

    async def complete(self, connection: AsyncConnection, claim: Claim, **values: Any) -> bool:
        """The work is done; ``values`` are written to the row with it. False if the claim does not stand any more."""
        failpoint("lease.before_complete")
        return await self._end(connection, claim, {self.due_at: None, **values})

    async def postpone(
        self, connection: AsyncConnection, claim: Claim, delay: timedelta | sa.ColumnElement[timedelta], **values: Any
    ) -> bool:
        """The row is to be worked on again after ``delay``. False if the claim does not stand any more.

        Work that recurs ends this way, too, with its interval as ``delay`` and its tries set to 0.
        """
        failpoint("lease.before_postpone")
        if isinstance(delay, timedelta):
            return await self._end(connection, claim, values, delay)
        return await self._end(connection, claim, {self.due_at: sa.func.now() + delay, **values})

    async def release(self, connection: AsyncConnection, claims: Sequence[Claim]) -> None:
        """Give back what was not completed: it is due at once, and the try does not count."""
        values = {self.leased_until: None, self.tries: self.table.c[self.tries] - 1}
        await connection.execute(sa.update(self.table).where(self._held(claims)).values(values))

    async def _end(
        self, connection: AsyncConnection, claim: Claim, values: dict[str, Any], delay: timedelta | None = None
    ) -> bool:
        now = frozenset(name for name, value in values.items() if isinstance(value, sa.sql.functions.now))
        bound = {name: value for name, value in values.items() if name not in now}
        parameters = {f"new_{name}": value for name, value in bound.items()}
        if any(isinstance(value, sa.ColumnElement) for value in bound.values()):
            due = {} if delay is None else {self.due_at: sa.func.now() + delay}
            ended = sa.update(self.table).where(self.held(claim)).values({self.leased_until: None, **due, **values})
            return (await connection.execute(ended)).rowcount == 1
        ended = _end_statement(self, frozenset(bound), now, postponed=delay is not None)
        parameters |= {f"key_{number}": part for number, part in enumerate(claim.key)}
        parameters |= {"of_fence": claim.fence} if delay is None else {"of_fence": claim.fence, "delay": delay}
        return (await connection.execute(ended, parameters)).rowcount == 1

    def _held_by(self, key: Sequence[Any], fence: Any) -> sa.ColumnElement[bool]:
        # Column by column: a list of keys is written into the statement anew each time.
        columns = self.table.c
        same = (column == value for column, value in zip(self._key, key, strict=True))
        return sa.and_(*same, columns[self.fence] == fence, columns[self.leased_until].is_not(None))

    def _held(self, claims: Sequence[Claim]) -> sa.ColumnElement[bool]:
        columns = self.table.c
        claimed = sa.tuple_(*self._key, columns[self.fence])
        return sa.and_(
            claimed.in_([(*claim.key, claim.fence) for claim in claims]), columns[self.leased_until].is_not(None)
        )

    @property
    def _key(self) -> tuple[sa.Column[Any], ...]:
        return tuple(self.table.primary_key.columns)


@lru_cache(maxsize=256)
def _end_statement(leased: LeasedTable, bound: frozenset[str], now: frozenset[str], *, postponed: bool) -> sa.Update:
    """The end of any claim that sets these columns, to values or to the time. Built once: that is dearer than to send.

    Names of parameters must not be those of columns.
    """
    columns = leased.table.c
    values: dict[str, Any] = {leased.leased_until: None}
    if postponed:
        values[leased.due_at] = sa.func.now() + sa.bindparam("delay", type_=sa.Interval())
    values |= {name: sa.func.now() for name in now}
    values |= {name: sa.bindparam(f"new_{name}", type_=columns[name].type) for name in bound}
    key = [sa.bindparam(f"key_{number}", type_=column.type) for number, column in enumerate(leased._key)]
    held = leased._held_by(key, sa.bindparam("of_fence", type_=sa.BigInteger()))
    return sa.update(leased.table).where(held).values(values)
