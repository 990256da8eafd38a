"""Reports the reservations that are held past their deadline."""

from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from billing import metrics
from billing.repository import ledger

LISTED_GENERATIONS: Final = 20

log = structlog.get_logger(__name__)


async def report_overdue_reservations(engine: AsyncEngine) -> None:
    """Count and name the reservations that are held past their deadline.

    They are reported and not released: the work may still be delivered, and generation drives every order to an end.
    A reservation that stays here means that its outcome is stuck on the way: look at the dead letters.
    """
    async with engine.connect() as connection:
        overdue = await ledger.count_overdue(connection)
        metrics.OVERDUE.set(overdue)
        if overdue:
            generations = await ledger.find_overdue_generations(connection, LISTED_GENERATIONS)
            log.warning("reservations_overdue", count=overdue, generation_ids=[str(one) for one in generations])
