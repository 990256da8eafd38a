"""Which kinds of work are due at which providers, asked in one statement. Each condition is that of the claim."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.payments import Provider
from messaging.leases import LeasedTable
from payments.repository.leases import EVENTS, PAYMENTS, REFUNDS
from service_runtime.statements import Statement


def _due_at(leased: LeasedTable, condition: str = "") -> str:
    """The providers, of those asked about, at which rows of a table are due.

    The order leads to the index of the timer, also where the planner knows nothing of the table.
    """
    rows = f"{leased.table.fullname} AS due WHERE due.provider = asked.provider AND {leased.due_sql('due')}{condition}"
    first = f"SELECT true FROM {rows} ORDER BY due.{leased.due_at} LIMIT 1"  # noqa: S608 - names of tables and columns
    asked = "unnest(CAST(:providers AS text[])) AS asked(provider)"
    return f"ARRAY(SELECT asked.provider FROM {asked} WHERE ({first}) IS NOT NULL)"  # noqa: S608 - as above


_FIND_DUE: Final = Statement(f"""
    SELECT {_due_at(PAYMENTS)}, {_due_at(REFUNDS, " AND due.state = 'requested'")}, {_due_at(EVENTS)}
""")


@dataclass(frozen=True, slots=True)
class Due:
    """The providers at which there may be something to do, by kind of work; the rows may be locked."""

    polls: Sequence[Provider]
    refunds: Sequence[Provider]
    events: Sequence[Provider]


async def find_due(connection: AsyncConnection, providers: Collection[Provider]) -> Due:
    """What there may be to do for the workers of these providers. Of the sweeps it says nothing."""
    (found,) = await _FIND_DUE.fetch(connection, {"providers": list(providers)})
    return Due(*found)
