"""Credits that were requested of billing and are not in the ledger are put before a person."""

from datetime import timedelta
from typing import Final

from messaging.transaction import Transactions
from payments.domain.payment_state import Review
from payments.handlers.reviews import open_review
from payments.repository import credit_movements

POSTING_DUE: Final = timedelta(minutes=10)
"""Billing posts within milliseconds; after ten minutes a person must know."""


async def report_unposted(transactions: Transactions) -> None:
    """Open a review for each credit movement that billing should have confirmed by now."""
    async with transactions.begin() as tx:
        movements = await credit_movements.find_unposted(tx.connection, POSTING_DUE)
    for movement in movements:
        expected = f"{movement.kind} of {movement.amount_credits} credits in the ledger"
        found = f"requested at {movement.requested_at:%Y-%m-%d %H:%M:%S} UTC, not posted"
        async with transactions.begin() as tx:
            if not await credit_movements.lock_unposted(tx.connection, movement.movement_id):
                # Nothing would close a review that is opened after the confirmation.
                continue
            await open_review(tx, movement.payment_id, Review("unposted", expected, found), str(movement.movement_id))
