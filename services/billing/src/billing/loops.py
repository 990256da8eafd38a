"""What time drives: grants expire, and reservations that nobody resolved are reported."""

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from billing import handlers, metrics, repository
from messaging.transaction import Transactions

EXPIRY_BATCH = 200
OVERDUE_NAMED = 20

log = structlog.get_logger(__name__)


async def expire_due_grants(transactions: Transactions) -> None:
    """Expire every grant whose time has come, in bounded transactions."""
    more = True
    while more:
        async with transactions.begin() as tx:
            more = await handlers.expire(tx, EXPIRY_BATCH) > 0


async def report_overdue_reservations(engine: AsyncEngine) -> None:
    """Count and name the reservations that are held past their deadline.

    They are reported and not released: the work may still be delivered, and generation, which knows, drives every
    order to an end. One that stays here means that its outcome is stuck on the way: look at the dead letters.
    """
    async with engine.connect() as connection:
        overdue = await repository.count_overdue(connection)
        metrics.OVERDUE.set(overdue)
        if overdue:
            generations = await repository.find_overdue_generations(connection, OVERDUE_NAMED)
            log.warning("reservations_overdue", count=overdue, generation_ids=[str(one) for one in generations])
