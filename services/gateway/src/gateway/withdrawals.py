"""Ends orders that billing does not answer.

Only billing knows whether an order's credits are reserved. So the gateway ends nothing by itself: it repeats the
request as a withdrawal, and billing refuses it unless it has decided before. Whichever of the two billing handles
first is the verdict. Credits that were reserved in time belong to generation, which ends every reservation
(``docs/decisions/0012``); a cancel reaches it, too.
"""

from typing import Final, Literal
from uuid import UUID

from contracts.gateway import GenerationRequested
from gateway import repository
from messaging.transaction import Transaction, Transactions

EVERY_SECONDS: Final = 15.0
_BATCH: Final = 100


async def withdraw_overdue(transactions: Transactions) -> int:
    """Withdraw orders that were not answered before their deadline; returns how many. To be called periodically."""
    async with transactions.begin() as tx:
        orders = await repository.lock_overdue(tx.connection, _BATCH)
        for order in orders:
            tx.publish(GenerationRequested(order=order, withdrawal="expired"), correlation_id=order.generation_id)
    return len(orders)


async def withdraw(tx: Transaction, generation_id: UUID, withdrawal: Literal["cancelled", "expired"]) -> None:
    """Withdraw one order, if its credits have not been reserved as far as the gateway knows."""
    order = await repository.find_unanswered(tx.connection, generation_id)
    if order is not None:
        tx.publish(GenerationRequested(order=order, withdrawal=withdrawal), correlation_id=generation_id)
