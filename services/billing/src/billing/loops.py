"""What time drives: grants expire, and reservations that nobody resolved are reported."""

from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from billing import handlers, metrics, repository
from messaging.database import is_unavailable
from messaging.transaction import Transactions

EXPIRY_BATCH = 200
OVERDUE_NAMED = 20

log = structlog.get_logger(__name__)


async def expire_due_grants(transactions: Transactions) -> None:
    """Expire every grant whose time has come, in bounded transactions.

    An account that cannot be changed is named in the log and passed over, and is no reason for others to wait.
    """
    batch = EXPIRY_BATCH
    passed_over: list[UUID] = []
    while True:
        async with transactions.begin() as tx:
            user_ids = await repository.find_users_with_due_grants(tx.connection, batch, passed_over)
        if not user_ids:
            return
        try:
            async with transactions.begin() as tx:
                await handlers.expire(tx, user_ids)
        except Exception as error:
            if is_unavailable(error):
                raise
            if batch == 1:
                log.exception("grants_not_expired", user_id=str(user_ids[0]))
                passed_over += user_ids
            batch = 1


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
