"""What an operator does by hand: decide reviews and give money back. Every act names its actor."""

from typing import Any, Final
from uuid import UUID

from messaging.ids import new_id
from messaging.transaction import Transaction
from payments import handlers, repository
from payments.errors import RefundNotPossible, ReviewAlreadyResolved

REFUNDABLE: Final = ("settled", "partially_refunded")
DECIDES_PAYMENT: Final = ("underpaid", "late", "amount_mismatch", "paid_after_dismissal")
"""Reviews whose decision settles or ends the payment; the others are only taken note of."""


async def resolve_review(tx: Transaction, review_id: UUID, resolution: str, actor: str, note: str) -> None:
    """Decide a review: ``credited`` grants the pack although the money did not match, ``dismissed`` does not.

    Raises ``ReviewAlreadyResolved``, also for an id that does not exist.
    """
    review = await repository.lock_review(tx.connection, review_id)
    if review is None or review.resolved_at is not None:
        raise ReviewAlreadyResolved(str(review_id))
    await repository.decide_review(tx.connection, review_id, resolution, actor, note)
    if review.payment_id is not None and review.code in DECIDES_PAYMENT:
        row = await repository.lock_payment(tx.connection, review.payment_id)
        if row.status == "review":
            await handlers.record_resolution(tx, row, resolution)


async def order_refund(
    tx: Transaction, payment_id: UUID, amount_cents: int, actor: str, note: str, manual: bool
) -> UUID:
    """Write a refund down; the driver sends it. ``manual`` records one that was paid out by hand (crypto).

    Raises ``RefundNotPossible`` when more would go back than came, or the payment is not settled.
    """
    row = await repository.lock_payment(tx.connection, payment_id)
    already = await repository.live_refund_cents(tx.connection, payment_id)
    if row.status not in REFUNDABLE:
        raise RefundNotPossible(f"the payment is {row.status}")
    if amount_cents <= 0 or already + amount_cents > row.paid_cents:
        raise RefundNotPossible(f"{row.paid_cents - already} cents can still be refunded")
    if row.provider != "stripe" and not manual:
        raise RefundNotPossible(f"{row.provider} refunds are paid out by hand: record it as manual")
    refund_id = new_id()
    values: dict[str, Any] = {
        "refund_id": refund_id,
        "payment_id": payment_id,
        "provider": row.provider,
        "amount_cents": amount_cents,
        "actor": actor,
        "note": note,
    }
    if manual:
        values |= {"provider_reference": f"manual:{refund_id}", "state": "succeeded"}
    else:
        values |= {"state": "requested", "next_try_at": row.created_at}
    await repository.add_refund(tx.connection, values)
    await repository.hint_payments(tx.connection, [payment_id])
    return refund_id
