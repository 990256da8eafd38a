"""Expires the grants whose time has come."""

from typing import Final
from uuid import UUID

import structlog

from billing import handlers
from billing.repository import ledger
from messaging.database import is_contended, is_unavailable, single_statements
from messaging.transaction import Transactions

EXPIRY_BATCH: Final = 200

log = structlog.get_logger(__name__)


async def expire_due_grants(transactions: Transactions) -> None:
    """Expire every grant whose time has come, in bounded transactions.

    An account that cannot be changed is named in the log and skipped, so that others do not wait for it.
    """
    batch = EXPIRY_BATCH
    skipped: list[UUID] = []
    while True:
        async with single_statements(transactions.engine) as connection:
            user_ids = await ledger.find_users_with_due_grants(connection, batch, skipped)
        if not user_ids:
            return
        try:
            async with transactions.begin() as tx:
                await handlers.expire_grants(tx, user_ids)
        except Exception as error:
            # A user whose row is locked is one to skip: the others do not wait for it.
            if is_unavailable(error) and not is_contended(error):
                raise
            if batch == 1:
                log.exception("grants_not_expired", user_id=str(user_ids[0]))
                skipped += user_ids
            batch = 1
