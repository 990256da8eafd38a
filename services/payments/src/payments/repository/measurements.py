"""What the gauges show: the oldest due lookup, open reviews, finished sweeps."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from payments.repository.leases import PAYMENTS
from payments.tables import payment_transactions, reviews, sweeps

_COLUMNS = payment_transactions.c


@dataclass(frozen=True, slots=True)
class Measurements:
    """One moment's figures. ``due_oldest_seconds`` is 0 if nothing is due; ``sweeps`` says when each last finished."""

    due_oldest_seconds: float
    open_reviews: int
    sweeps: dict[str, datetime]


async def get_measurements(connection: AsyncConnection) -> Measurements:
    """Read everything that the gauges show."""
    waited = sa.extract("epoch", sa.func.now() - sa.func.min(_COLUMNS.next_look_at))
    due = sa.select(sa.func.coalesce(waited, 0)).where(PAYMENTS.due())
    waiting = sa.select(sa.func.count()).select_from(reviews).where(reviews.c.resolved_at.is_(None))
    finished = sa.select(sweeps.c.name, sweeps.c.finished_at).where(sweeps.c.finished_at.is_not(None))
    return Measurements(
        float((await connection.execute(due)).scalar_one()),
        int((await connection.execute(waiting)).scalar_one()),
        {row.name: row.finished_at for row in await connection.execute(finished)},
    )
